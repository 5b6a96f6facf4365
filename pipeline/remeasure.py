"""Measure a bundle's engines again, with nothing but their runtime."""

from pathlib import Path

from pipeline.bundle import Judged, Release, judge_bundle, judged
from pipeline.measure import (
    EnginePair,
    Measure,
    engine_file,
    start_engine,
    time_engines,
    timing_of,
)
from pipeline.place import place_of
from profiles.errors import StageError


def remeasure(bundle: Path, settings: Measure) -> Release:
    """Times and memory measured anew; the scores stay, bound to the engine by its digest.

    The engines are run only after the bundle was found to be as its manifest says.
    """
    before = judge_bundle(bundle)
    targets = tuple(_again(bundle, target, settings) for target in before.targets)
    return Release(before.pruned, targets)


def _again(bundle: Path, target: Judged, settings: Measure) -> Judged:
    terms, old = target.terms, target.measurement
    if old.dense.unverified or old.shipped.unverified:
        raise StageError(
            f"{bundle}: its engines were never held to their network: {old.shipped.unverified}; "
            "build it where they run"
        )
    device = terms.device
    pair = EnginePair(
        engine_file(bundle / terms.dense, device), engine_file(bundle / terms.engine, device)
    )
    with place_of(terms.ssh) as place:
        dense_starts = start_engine(place, pair.dense, device.batch, settings)
        starts = start_engine(place, pair.shipped, device.batch, settings)
        runs = time_engines(place, pair, timing_of(device, terms.budget, settings))
        host = place.host()
    measurement = old.model_copy(
        update={
            "host": host,
            "dense": old.dense.model_copy(update={"starts": dense_starts}),
            "shipped": old.shipped.model_copy(update={"starts": starts}),
            "latency": runs,
        }
    )
    return judged(terms, measurement, bundle / terms.engine)
