"""All evidence on the two engines of one target, gathered now: never from the store."""

import logging
from collections.abc import Mapping

from exporters.base import runtime
from pipeline.artifact import Engine
from pipeline.digest import file_digest
from pipeline.measure import (
    EnginePair,
    Measure,
    Scores,
    engine_file,
    score_engine,
    start_engine,
    time_engines,
    timing_of,
)
from pipeline.place import Place
from pipeline.recipe import Aim
from pipeline.task import Task
from profiles.measurement import EngineEvidence, LatencyRun, Measurement

log = logging.getLogger("slimgate")


def measure(
    place: Place, settings: Measure, task: Task, aim: Aim, dense: Engine, shipped: Engine
) -> Measurement:
    """Scores, memory and times of both engines on the target's own machine.

    Where `place` is another machine than the target, only the scores are taken: they tell
    whether the engine is right, and nothing there tells how fast the device is.
    """
    host, device = place.host(), aim.device
    unlike = device.identity.unlike(host)
    log.info("measure %s: accuracy on %d samples ...", aim.name, len(task.validation))
    scores = {
        name: score_engine(place, engine_file(engine.path, device), task)
        for name, engine in (("dense", dense), ("shipped", shipped))
        if not engine.report().unverified
    }
    before, after = (
        _evidence(place, settings, aim, engine, scores.get(name), timed=not unlike)
        for name, engine in (("dense", dense), ("shipped", shipped))
    )
    runs: tuple[LatencyRun, ...] = ()
    if not (unlike or before.unverified or after.unverified):
        log.info("measure %s: latency in %d processes ...", aim.name, settings.processes)
        pair = EnginePair(engine_file(dense.path, device), engine_file(shipped.path, device))
        runs = time_engines(place, pair, timing_of(device, aim.budget, settings))
    return Measurement(
        device=aim.name,
        host=host,
        threads=device.threads,
        batch=device.batch,
        clock=device.clock,
        labels=scores["shipped"].labels if "shipped" in scores else (),
        dense=before,
        shipped=after,
        latency=runs,
    )


def _evidence(
    place: Place, settings: Measure, aim: Aim, engine: Engine, scores: Scores | None, timed: bool
) -> EngineEvidence:
    exported, built = engine.source.report(), engine.report()
    file, batch = engine_file(engine.path, aim.device), aim.device.batch
    layers_ms: Mapping[str, float] = {}
    if scores and timed and not aim.ssh:
        layers_ms = runtime(file.runtime, file.options).layer_times_ms(engine.path, batch)
    return EngineEvidence(
        sha256=file_digest(engine.path),
        unverified=built.unverified,
        parity_error=built.parity.error if built.parity else float("nan"),
        size_bytes=engine.path.stat().st_size,
        macs=exported.macs,
        parameters=exported.parameters,
        scores=scores.values if scores else (),
        samples_sha256=scores.samples_sha256 if scores else "",
        starts=start_engine(place, file, batch, settings) if scores and timed else (),
        layers_ms=dict(layers_ms),
    )
