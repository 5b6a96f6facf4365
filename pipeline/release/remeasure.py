"""Measure a bundle's engines again, with nothing but their runtime."""

import logging
import math
from pathlib import Path

from exporters.exporter import runtime_distributions
from pipeline.measure.places import place_of
from pipeline.measure.sessions import (
    EnginePair,
    Measure,
    engine_file,
    start_engines,
    time_engines,
    timing_of,
)
from pipeline.release.bundle import Judged, Release, judge_bundle, judge_target
from profiles.errors import StageError

log = logging.getLogger("slimgate")


def remeasure(bundle: Path, settings: Measure) -> Release:
    """Times and memory measured anew; scores and parity stay, bound to the engine by its digest,
    where machine and runtime are those that gave them, and are missing elsewhere.

    The engines are run only after the bundle was found to be as its manifest says.
    """
    before = judge_bundle(bundle)
    targets = tuple(_remeasured(bundle, target, settings) for target in before.targets)
    return Release(before.pruned, targets)


def _remeasured(bundle: Path, target: Judged, settings: Measure) -> Judged:
    terms, old = target.terms, target.measurement
    if old.dense.unverified or old.shipped.unverified:
        raise StageError(
            f"{bundle}: {terms.device_name}: the engines' outputs were never compared with the "
            f"model's ({old.shipped.unverified or old.dense.unverified}); run the recipe where the "
            "engines run"
        )
    device = terms.device
    pair = EnginePair(
        engine_file(bundle / terms.dense, device), engine_file(bundle / terms.engine, device)
    )
    with place_of(terms.ssh) as place:
        dense_starts, starts = start_engines(place, pair, device.batch, settings)
        runs = time_engines(place, pair, timing_of(device, terms.budget, settings))
        host = place.host()
    outputs: dict[str, object] = {}
    if not host.computes_as(old.host, runtime_distributions()):
        log.warning(
            "%s: the scores are of another machine or runtime and do not count here; "
            "slimgate run measures them anew",
            terms.device_name,
        )
        outputs = {"scores": (), "samples_sha256": "", "parity_error": math.nan}
    measurement = old.model_copy(
        update={
            "host": host,
            "dense": old.dense.model_copy(update={**outputs, "starts": dense_starts}),
            "shipped": old.shipped.model_copy(update={**outputs, "starts": starts}),
            "latency": runs,
        }
    )
    return judge_target(terms, measurement, bundle / terms.engine)
