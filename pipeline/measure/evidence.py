"""All evidence on the two engines of one target, gathered now: never from the store."""

import logging
from dataclasses import dataclass

from exporters.worker import EngineFile
from pipeline.data.digest import file_digest
from pipeline.measure.agreement import agreement
from pipeline.measure.places import Place
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.measure.sessions import (
    EnginePair,
    Measure,
    Scores,
    engine_file,
    score_engine,
    start_engine,
    time_engines,
    timing_of,
)
from pipeline.store.artifacts import Engine
from pipeline.task import Task
from profiles.measurement import EngineEvidence, LatencyRun, Measurement

log = logging.getLogger("slimgate")


@dataclass(frozen=True)
class Candidate:
    """What would ship to a target, and the dense network's engine beside it."""

    target: ResolvedTarget
    dense: Engine
    shipped: Engine


@dataclass(frozen=True)
class Held:
    """An engine, and how far its outputs are from its network's, or why that is not known."""

    engine: Engine
    file: EngineFile
    parity_error: float
    unverified: str


def measure(place: Place, settings: Measure, task: Task, candidate: Candidate) -> Measurement:
    """Scores, memory and times of both engines on the target's own machine.

    Where `place` is another machine than the target, at most the scores are taken: they tell
    whether the engine is right, and nothing there tells how fast the device is.
    """
    target = candidate.target
    host, device = place.host(), target.device
    unlike = device.unlike(host)
    held = {
        name: _held(place, target, engine, is_device=not unlike)
        for name, engine in (("dense", candidate.dense), ("shipped", candidate.shipped))
    }
    log.info("measure %s: accuracy on %d samples ...", target.name, len(task.validation))
    scores = {
        name: score_engine(place, one.file, task)
        for name, one in held.items()
        if not one.unverified
    }
    before, after = (
        _evidence(place, settings, target, one, scores.get(name), timed=not unlike)
        for name, one in held.items()
    )
    runs: tuple[LatencyRun, ...] = ()
    if not (unlike or before.unverified or after.unverified):
        log.info("measure %s: latency in %d processes ...", target.name, settings.processes)
        pair = EnginePair(held["dense"].file, held["shipped"].file)
        runs = time_engines(place, pair, timing_of(device, target.budget, settings))
    return Measurement(
        device=target.name,
        host=host,
        threads=device.threads,
        batch=device.batch,
        clock=device.clock,
        labels=scores["shipped"].labels if "shipped" in scores else (),
        dense=before,
        shipped=after,
        latency=runs,
    )


def _held(place: Place, target: ResolvedTarget, engine: Engine, is_device: bool) -> Held:
    """What was found as it was built, where that was on this machine; a board is asked anew."""
    file, built = engine_file(engine.path, target.device), engine.report()
    if target.ssh is None or not is_device:
        error = built.parity.error if built.parity else float("nan")
        return Held(engine, file, error, built.unverified)
    log.info("measure %s: is it still the network there? ...", target.name)
    parity, _ = agreement(f"{target.name}: running it there", place, file, engine.source)
    return Held(engine, file, parity.error, "")


def _evidence(
    place: Place,
    settings: Measure,
    target: ResolvedTarget,
    held: Held,
    scores: Scores | None,
    timed: bool,
) -> EngineEvidence:
    exported, path, batch = held.engine.source.report(), held.engine.path, target.device.batch
    return EngineEvidence(
        sha256=file_digest(path),
        unverified=held.unverified,
        parity_error=held.parity_error,
        size_bytes=path.stat().st_size,
        macs=exported.macs,
        parameters=exported.parameters,
        scores=scores.values if scores else (),
        samples_sha256=scores.samples_sha256 if scores else "",
        starts=start_engine(place, held.file, batch, settings) if scores and timed else (),
        layers_ms=dict(place.layers_ms(held.file, batch)) if scores and timed else {},
    )
