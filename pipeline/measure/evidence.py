"""All evidence on the two engines of one target, gathered now: never from the store."""

import logging
from collections.abc import Mapping
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
    start_engines,
    time_engines,
    timing_of,
)
from pipeline.store.artifacts import Engine
from pipeline.task import Task
from profiles.host import Host
from profiles.limits import LIMITS, cost_limits
from profiles.measurement import EngineEvidence, LatencyRun, Measurement, StartRun

log = logging.getLogger("slimgate")


@dataclass(frozen=True)
class Candidate:
    """What would ship to a target, and the dense network's engine beside it."""

    target: ResolvedTarget
    dense: Engine
    shipped: Engine


@dataclass(frozen=True)
class ComparedEngine:
    """An engine whose outputs were compared with those of the ONNX model it was built from."""

    engine: Engine
    file: EngineFile
    parity_error: float
    """The largest relative difference of the outputs; NaN where they were never compared."""
    unverified: str
    """Why they were never compared; empty where they were."""


def measure(place: Place, settings: Measure, task: Task, candidate: Candidate) -> Measurement:
    """Scores, memory and times of both engines on the target's own machine.

    Where `place` is another machine than the target, at most the scores are taken: they tell
    whether the engine is right, and nothing there tells how fast the device is.
    """
    target = candidate.target
    host, device = place.host(), target.device
    mismatch = device.mismatch(host)
    engines = {
        name: _compared_engine(place, target, engine, is_device=not mismatch)
        for name, engine in (("dense", candidate.dense), ("shipped", candidate.shipped))
    }
    log.info("measure %s: accuracy on %d samples ...", target.name, len(task.validation))
    scores = {
        name: score_engine(place, one.file, task)
        for name, one in engines.items()
        if not one.unverified
    }
    starts: Mapping[str, tuple[StartRun, ...]] = {}
    layers_ms: Mapping[str, Mapping[str, float]] = {}
    runs: tuple[LatencyRun, ...] = ()
    if not mismatch and scores.keys() == engines.keys():
        pair = EnginePair(engines["dense"].file, engines["shipped"].file)
        log.info("measure %s: memory and first inference ...", target.name)
        starts = dict(zip(engines, start_engines(place, pair, device.batch, settings), strict=True))
        layers_ms = {name: place.layers_ms(one.file, device.batch) for name, one in engines.items()}
        log.info("measure %s: latency in %d processes ...", target.name, settings.processes)
        runs = time_engines(place, pair, timing_of(device, target.budget, settings))
    before, after = (
        _evidence(one, scores.get(name), starts.get(name, ()), layers_ms.get(name, {}))
        for name, one in engines.items()
    )
    labels = scores["shipped"].labels if "shipped" in scores else ()
    found = _measurement(target, host, before, after)
    return found.model_copy(update={"labels": labels, "latency": runs})


def measure_costs(place: Place, settings: Measure, candidate: Candidate) -> Measurement:
    """Of both engines what the target's budget asks of costs, on its own machine; no scores.

    For engines that will not ship: their outputs need not have been compared with anything.
    """
    target, nothing = candidate.target, float("nan")
    engines = [
        ComparedEngine(engine, engine_file(engine.path, target.device), nothing, "")
        for engine in (candidate.dense, candidate.shipped)
    ]
    pair, batch = EnginePair(*(one.file for one in engines)), target.device.batch
    asked = [LIMITS[name] for name in cost_limits(target.device, target.budget)]
    starts: tuple[tuple[StartRun, ...], tuple[StartRun, ...]] = ((), ())
    if any(limit.requirement.of_starts for limit in asked):
        starts = start_engines(place, pair, batch, settings)
    dense, shipped = (
        _evidence(one, None, of_one, {}) for one, of_one in zip(engines, starts, strict=True)
    )
    counted = _measurement(target, place.host(), dense, shipped)
    if not any(limit.requirement.fault(counted) for limit in asked):  # nothing is on times
        return counted
    runs = time_engines(place, pair, timing_of(target.device, target.budget, settings))
    return counted.model_copy(update={"latency": runs})


def _measurement(
    target: ResolvedTarget, host: Host, dense: EngineEvidence, shipped: EngineEvidence
) -> Measurement:
    """What is known of two engines as the target runs them, before any is timed."""
    device = target.device
    return Measurement(
        device=target.name,
        host=host,
        threads=device.threads,
        batch=device.batch,
        clock=device.clock,
        labels=(),
        dense=dense,
        shipped=shipped,
        latency=(),
    )


def _compared_engine(
    place: Place, target: ResolvedTarget, engine: Engine, is_device: bool
) -> ComparedEngine:
    """The comparison made as the engine was built; on a board it is made anew."""
    file, built = engine_file(engine.path, target.device), engine.report()
    if target.ssh is None or not is_device:
        error = built.parity.error if built.parity else float("nan")
        return ComparedEngine(engine, file, error, built.unverified)
    log.info("measure %s: checking the engine's outputs on the device ...", target.name)
    parity, _ = agreement(f"{target.name}: running it on the device", place, file, engine.source)
    return ComparedEngine(engine, file, parity.error, "")


def _evidence(
    compared: ComparedEngine,
    scores: Scores | None,
    starts: tuple[StartRun, ...],
    layers_ms: Mapping[str, float],
) -> EngineEvidence:
    exported, path = compared.engine.source.report(), compared.engine.path
    return EngineEvidence(
        sha256=file_digest(path),
        unverified=compared.unverified,
        parity_error=compared.parity_error,
        size_bytes=path.stat().st_size,
        macs=exported.macs,
        parameters=exported.parameters,
        scores=scores.values if scores else (),
        samples_sha256=scores.samples_sha256 if scores else "",
        starts=starts,
        layers_ms=dict(layers_ms),
    )
