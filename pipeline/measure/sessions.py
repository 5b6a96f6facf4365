"""Gather evidence on two engines: scores, times and memory, the last two in fresh processes."""

import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from exporters.arrays import FloatArray
from exporters.worker import EngineFile, Job, LatencyJob, StartJob
from pipeline.data.arrays import Float64, Targets
from pipeline.data.batches import batches, check_labels
from pipeline.data.user_code import user_code
from pipeline.measure.places import Place
from pipeline.task import Task
from profiles.budget import Budget
from profiles.device import DeviceProfile
from profiles.errors import DeviceError, StageError
from profiles.limits import LIMITS
from profiles.measurement import Clock, LatencyRun, StartRun
from profiles.requirements import (
    MAX_CONTROL_ERROR,
    MIN_PROCESSES,
    MIN_SAMPLES,
    MIN_STARTS,
    control_error,
)
from profiles.spec import Spec, explain

log = logging.getLogger("slimgate")

T = TypeVar("T", bound=Spec)

SESSIONS = 3
"""How often engines are timed at most: a session that is too noisy is repeated, and the last one
is reported as it is.
"""
EVALUATION_BATCH = 64
STARTS_S = 60.0
"""After as long a measurement starts engines no more often than bounds need it."""


class Measure(Spec):
    """How much evidence to gather."""

    processes: PositiveInt = Field(default=8, ge=MIN_PROCESSES)
    """Fresh processes that time the engines. Of 5 to 7 the slowest bounds the median, from 8 on the
    slowest but one.
    """
    seconds: PositiveFloat = 2.0
    """Timed seconds in each process, shared by the engines it compares."""
    starts: PositiveInt = Field(default=20, ge=MIN_STARTS)
    """Fresh processes that load each engine, for memory and the first inference; fewer, though at
    least 5, where they take more than a minute."""
    frame_interval_ms: PositiveFloat | None = None
    """The pace of further calls, as a camera would make them; None for none."""


ROUNDING = 1e-6
"""How far a score may be outside of 0 and 1 by the rounding of the metric's own sums."""


@dataclass(frozen=True)
class EnginePair:
    """Two engines: the dense network's or another baseline, and the one that would ship."""

    dense: EngineFile
    shipped: EngineFile


@dataclass(frozen=True)
class Timing:
    """How a pair is timed."""

    settings: Measure
    batch: int
    clock: Clock
    least_calls: int
    """The fewest calls of each engine in each process."""


@dataclass(frozen=True)
class Scores:
    """The task's metric for every validation sample."""

    values: tuple[float, ...]
    samples_sha256: str
    """The digest of the samples' inputs, in order."""
    labels: tuple[int, ...]
    """The class of each sample; empty where samples have none."""


def timing_of(device: DeviceProfile, budget: Budget, settings: Measure) -> Timing:
    """As the device runs it, with as many calls as the budget's percentiles need."""
    required = [LIMITS[name].requirement for name in budget.limits()]
    # A p95 is reported whether there is a limit on it or not.
    in_all = max([MIN_SAMPLES[95], *(requirement.calls_in_all for requirement in required)])
    per_process = max(requirement.calls_per_process for requirement in required)
    least_calls = max(-(-in_all // settings.processes), per_process)
    return Timing(settings, device.batch, device.clock, least_calls)


def engine_file(path: Path, device: DeviceProfile) -> EngineFile:
    """An engine for the device's own runtime."""
    return EngineFile(runtime=device.engine, options=device.options(), path=str(path))


def time_engines(place: Place, engines: EnginePair, timing: Timing) -> tuple[LatencyRun, ...]:
    """Raw times of both engines, interleaved, in fresh processes.

    A session in which the dense engine differs from itself says nothing about another engine,
    so it is repeated; the choice never looks at the engine under test.
    """
    for attempt in range(SESSIONS):
        seeds = range(timing.settings.processes)
        runs = tuple(_time_once(place, engines, timing, seed) for seed in seeds)
        error = control_error(runs, timing.clock)
        if error <= MAX_CONTROL_ERROR and all(run.warm for run in runs):
            break
        left = SESSIONS - 1 - attempt
        what = f"retrying, {left} left" if left else "no retry is left"
        log.warning("  %s; %s", _noise(runs, error), what)
    return runs


def start_engines(
    place: Place, engines: EnginePair, batch: int, settings: Measure
) -> tuple[tuple[StartRun, ...], tuple[StartRun, ...]]:
    """Memory and first inference of fresh processes that load and run one engine.

    Returns those of dense and of shipped, one of each in turn, so that both meet the same machine.
    Where loading takes long there are fewer than `settings.starts`.
    """
    dense: list[StartRun] = []
    shipped: list[StartRun] = []
    end = time.perf_counter() + STARTS_S
    for number in range(settings.starts):
        if number >= MIN_PROCESSES and time.perf_counter() > end:
            break
        both = [(engines.dense, dense), (engines.shipped, shipped)]
        for engine, runs in random.Random(number).sample(both, 2):
            job = Job(start=StartJob(engine=engine, batch=batch))
            runs.append(_answer(place, job, StartRun))
    return tuple(dense), tuple(shipped)


def score_engine(place: Place, engine: EngineFile, task: Task) -> Scores:
    """The task's metric for every validation sample, from the engine file itself.

    Raises StageError for outputs or scores that are not finite, and for a metric that does not
    return one score for each sample.
    """
    digest = hashlib.sha256()
    asked: deque[Targets] = deque()

    def inputs() -> Iterator[FloatArray]:
        for batch, expected in batches(
            task.validation, range(len(task.validation)), EVALUATION_BATCH
        ):
            digest.update(np.ascontiguousarray(batch).tobytes())
            asked.append(expected)
            yield batch

    found: list[float] = []
    labels: list[int] = []
    for outputs in place.outputs(engine, inputs()):
        expected = asked.popleft()
        check_labels(expected, outputs.shape[1])
        _check_finite(outputs, len(found), "output of the engine")
        with user_code("the metric"):
            scores = np.asarray(task.metric(outputs, expected), np.float64)
        if scores.shape != (len(outputs),):
            raise StageError(
                f"the metric returned {_counted_scores(scores)} for {len(outputs)} samples; "
                "return one score for each sample"
            )
        _check_finite(scores, len(found), "score of the metric")
        outside = scores[np.abs(scores - 0.5) > 0.5 + ROUNDING]
        if len(outside):
            raise StageError(
                f"the metric returned {outside[0]:g}; return a score from 0 to 1 for each sample"
            )
        scores = scores.clip(0, 1)
        found += scores.tolist()
        if expected.ndim == 1 and expected.dtype.kind in "iu":
            labels += expected.tolist()
    if len(found) != len(task.validation):
        raise DeviceError(
            f"{place.name}: the engine gave outputs for {len(found)} of "
            f"{len(task.validation)} samples; run again"
        )
    are_classes = len(labels) == len(found)
    return Scores(tuple(found), digest.hexdigest(), tuple(labels) if are_classes else ())


def _noise(runs: Sequence[LatencyRun], error: float) -> str:
    if error <= MAX_CONTROL_ERROR:
        cold = sum(not run.warm for run in runs)
        return f"timing noise: the warm-up did not settle in {cold} of {len(runs)} processes"
    return (
        f"timing noise: the dense engine differs from itself by {100 * error:.1f} % "
        f"({100 * MAX_CONTROL_ERROR:.0f} % allowed)"
    )


def _check_finite(values: FloatArray | Float64, first_sample: int, what: str) -> None:
    """Raise StageError naming the first sample of `values` [n, ...] that is NaN or infinite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise StageError(f"sample {first_sample + int(np.argmin(finite))}: NaN or infinite {what}")


def _counted_scores(scores: Float64) -> str:
    if scores.ndim > 1:
        return f"scores of shape {scores.shape}"
    return "1 score" if scores.size == 1 else f"{scores.size} scores"


def _time_once(place: Place, engines: EnginePair, timing: Timing, seed: int) -> LatencyRun:
    # The order in which engines are loaded shifts their memory layout, so it varies too.
    names = random.Random(seed).sample(["dense", "control", "shipped"], 3)
    engine = {"dense": engines.dense, "control": engines.dense, "shipped": engines.shipped}
    job = LatencyJob(
        engines={name: engine[name] for name in names},
        batch=timing.batch,
        seconds=timing.settings.seconds,
        least_samples=timing.least_calls,
        frame_interval_ms=timing.settings.frame_interval_ms,
        seed=seed,
    )
    return _answer(place, Job(latency=job), LatencyRun)


def _answer(place: Place, job: Job, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(place.answer(job))
    except ValidationError as error:
        raise DeviceError(
            explain(error, kind, f"{place.name}: its reply could not be parsed")
        ) from error
