"""Measure a bundle's engines again, on this machine, with nothing but their runtime."""

from pathlib import Path

from pipeline.bundle import Judged, judge_bundle, judged
from pipeline.digest import file_digest
from pipeline.measure import EnginePair, Measure, engine_file, time_engines, weigh_engine
from profiles.errors import StageError
from profiles.host import this_host


def remeasure(bundle: Path, settings: Measure) -> Judged:
    """Time and memory measured anew; the scores stay, bound to the engine by its digest.

    The engines are run only after the bundle was found to be as its manifest says.
    """
    before = judge_bundle(bundle)
    terms, old = before.terms, before.measurement
    if old.dense.unverified or old.shipped.unverified:
        raise StageError(
            f"{bundle}: its engines were never held to their network: {old.shipped.unverified}; "
            "build it where they run"
        )
    shipped = bundle / terms.engine
    engines = EnginePair(
        engine_file(bundle / terms.dense, terms.device), engine_file(shipped, terms.device)
    )
    dense_memory = weigh_engine(engines.dense, settings)
    shipped_memory = weigh_engine(engines.shipped, settings)
    measurement = old.model_copy(
        update={
            "host": this_host(("numpy", "onnxruntime")),
            "dense": old.dense.model_copy(update={"memory": dense_memory}),
            "shipped": old.shipped.model_copy(update={"memory": shipped_memory}),
            "latency": time_engines(engines, settings),
        }
    )
    return judged(terms, before.pruned, measurement, file_digest(shipped))
