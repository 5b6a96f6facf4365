"""All evidence on the two engines of one target, gathered now: never from the store."""

import logging

from pipeline.artifact import Engine
from pipeline.digest import file_digest
from pipeline.measure import (
    EnginePair,
    Measure,
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
    if unlike:
        log.warning("measure: this is not %s (%s): no times, no verdict", aim.name, unlike)
    log.info("measure %s: accuracy on %d samples ...", aim.name, len(task.validation))
    before, after = (
        _evidence(place, settings, task, aim, engine, timed=not unlike)
        for engine in (dense, shipped)
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
        dense=before,
        shipped=after,
        latency=runs,
    )


def _evidence(
    place: Place, settings: Measure, task: Task, aim: Aim, engine: Engine, timed: bool
) -> EngineEvidence:
    exported, built = engine.source.report(), engine.report()
    file = engine_file(engine.path, aim.device)
    runs = not built.unverified
    scores = score_engine(place, file, task) if runs else None
    return EngineEvidence(
        sha256=file_digest(engine.path),
        unverified=built.unverified,
        parity_error=built.parity.error if built.parity else float("nan"),
        size_bytes=engine.path.stat().st_size,
        macs=exported.macs,
        parameters=exported.parameters,
        scores=scores.values if scores else (),
        samples_sha256=scores.samples_sha256 if scores else "",
        starts=start_engine(place, file, aim.device.batch, settings) if runs and timed else (),
    )
