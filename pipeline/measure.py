"""Gather evidence on two engines: scores here, time and memory each in fresh processes."""

import logging
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from exporters.base import call_one
from exporters.worker import EngineFile, Job, LatencyJob, MemoryJob
from pipeline.data import batches, check_labels
from pipeline.task import Task, user_code
from profiles.device import DeviceProfile
from profiles.errors import DeviceError, StageError
from profiles.gate import MAX_CONTROL_ERROR, MIN_MEMORY_RUNS, MIN_PROCESSES, MIN_SAMPLES
from profiles.measurement import LatencyRun, MemoryRun, cpu_ratio
from profiles.spec import Spec

log = logging.getLogger("slimgate")

T = TypeVar("T", bound=Spec)

TIMEOUT_S = 900
SESSIONS = 3
"""How often a session whose control is off is repeated before it is reported as it is."""
EVALUATION_BATCH = 64


class Measure(Spec):
    """How much evidence to gather."""

    processes: PositiveInt = Field(default=MIN_PROCESSES, ge=MIN_PROCESSES)
    seconds: PositiveFloat = 2.0
    """Timed seconds in each process, shared by the engines it compares."""
    memory_processes: PositiveInt = Field(default=MIN_MEMORY_RUNS, ge=MIN_MEMORY_RUNS)


@dataclass(frozen=True)
class EnginePair:
    """Two engines: the dense network's or another baseline, and the one that would ship."""

    dense: EngineFile
    shipped: EngineFile


def engine_file(path: Path, device: DeviceProfile) -> EngineFile:
    """An engine for the device's own runtime."""
    return EngineFile(runtime=device.engine, options=device.options(), path=str(path))


def time_engines(engines: EnginePair, settings: Measure) -> tuple[LatencyRun, ...]:
    """Raw times of both engines, interleaved, in fresh processes.

    A session in which the dense engine differs from itself says nothing about another engine,
    so it is repeated; the choice never looks at the engine under test.
    """
    for session in range(SESSIONS):
        runs = tuple(_time_once(engines, settings, seed) for seed in range(settings.processes))
        error = abs(
            cpu_ratio([run.control for run in runs], [run.dense for run in runs]).measured - 1
        )
        if error <= MAX_CONTROL_ERROR and all(run.warm for run in runs):
            break
        left = SESSIONS - 1 - session
        log.warning("  the control differs by %.1f %%: noisy; %d tries left", 100 * error, left)
    return runs


def weigh_engine(engine: EngineFile, settings: Measure) -> tuple[MemoryRun, ...]:
    """Resident memory of fresh processes that load and run one engine."""
    job = MemoryJob(engine=engine)
    return tuple(_answer(Job(memory=job), MemoryRun) for _ in range(settings.memory_processes))


def score_engine(engine: EngineFile, task: Task) -> tuple[float, ...]:
    """The task's metric for every validation sample, from the engine file itself.

    Raises StageError for outputs or scores that are not finite or not one a sample.
    """
    session = engine.opened()
    size = EVALUATION_BATCH if session.inputs[0].shape[0] is None else 1
    found: list[float] = []
    for inputs, targets in batches(task.validation, range(len(task.validation)), size):
        outputs = call_one(session, inputs)
        check_labels(targets, outputs.shape[1])
        with user_code("the metric"):
            scores = np.asarray(task.metric(outputs, targets), np.float64)
        if scores.shape != (len(inputs),) or not np.isfinite([*scores, *outputs.flat]).all():
            raise StageError(f"sample {len(found)}: outputs or scores are not finite, one a sample")
        found += scores.tolist()
    return tuple(found)


def _time_once(engines: EnginePair, settings: Measure, seed: int) -> LatencyRun:
    # The order in which engines are loaded shifts their memory layout, so it varies too.
    names = random.Random(seed).sample(["dense", "control", "shipped"], 3)
    engine = {"dense": engines.dense, "control": engines.dense, "shipped": engines.shipped}
    job = LatencyJob(
        engines={name: engine[name] for name in names},
        seconds=settings.seconds,
        least_samples=-(-MIN_SAMPLES // settings.processes),
        seed=seed,
    )
    return _answer(Job(latency=job), LatencyRun)


def _answer(job: Job, kind: type[T]) -> T:
    """Run one job in a fresh process. `-P` keeps the current folder off the search path."""
    command = [sys.executable, "-P", "-m", "exporters.worker"]
    try:
        done = subprocess.run(
            command, input=job.model_dump_json(), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"measuring took more than {TIMEOUT_S} s and was stopped") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(f"the measuring process failed: {lines[-1]}")
    try:
        return kind.model_validate_json(done.stdout)
    except ValidationError as error:
        raise DeviceError(f"the measuring process answered nonsense: {error}") from error
