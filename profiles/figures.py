"""Figures: what people compare of two engines, each told of one engine at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from profiles.measurement import (
    MIB,
    CallTimes,
    EngineEvidence,
    Measurement,
    cpu_ms,
    first_inference_ms,
    first_inference_ms_of_each,
    peak_mib,
    peak_mib_of_each,
    throughput_per_s,
    wall_ms,
    wall_ms_of_each,
)
from profiles.statistics import Interval, exact, median_bounds, score_bounds


@dataclass(frozen=True)
class EngineSamples:
    """All samples of one engine of a measurement."""

    engine: EngineEvidence
    calls: Sequence[CallTimes]
    """The timed calls of each process."""
    batch: int


OfEach = Callable[[EngineSamples], Sequence[float]]
"""A figure of each process alone, in the order in which they ran."""


@dataclass(frozen=True)
class Figure:
    """One figure of an engine."""

    name: str
    """The key in JSON; where a limit bears the same name, the limit is on this figure."""
    label: str
    """The name and the unit that people read in the comparison of dense and shipped."""
    estimate: Callable[[EngineSamples], Interval]
    """The figure in the unit of its name, with bounds."""
    decimals: int = 3
    """The decimals that people read."""
    scale: float = 1.0
    """The factor from the unit of the name to the unit that people read."""
    of_each: OfEach | None = None
    """None of what is counted, and of what no release is held to the last one by."""


def dense_samples(measurement: Measurement) -> EngineSamples:
    """The samples of the dense network's engine."""
    calls = [run.dense for run in measurement.latency]
    return EngineSamples(measurement.dense, calls, measurement.batch)


def shipped_samples(measurement: Measurement) -> EngineSamples:
    """The samples of the engine that would ship."""
    calls = [run.shipped for run in measurement.latency]
    return EngineSamples(measurement.shipped, calls, measurement.batch)


def figures_of(samples: EngineSamples) -> dict[str, float]:
    """Every figure of one engine by its name, without bounds; NaN where nothing was measured."""
    return {name: figure.estimate(samples).measured for name, figure in FIGURES.items()}


def _steady_mib(samples: EngineSamples) -> Interval:
    added = [run.steady_mib - run.baseline_mib for run in samples.engine.starts]
    bounds = median_bounds(added)
    return Interval(float(np.median(added)) if added else math.nan, bounds.lower, bounds.upper)


FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("top1", "top-1", lambda s: score_bounds(s.engine.scores), decimals=4),
        Figure("macs", "MMACs (1 MAC = 2 FLOPs)", lambda s: exact(s.engine.macs), scale=1e-6),
        Figure("flops", "MFLOPs", lambda s: exact(2 * s.engine.macs), scale=1e-6),
        Figure("parameters", "parameters", lambda s: exact(s.engine.parameters), decimals=0),
        Figure("engine_size_mib", "engine, MiB", lambda s: exact(s.engine.size_bytes / MIB)),
        Figure(
            "latency_p50_ms",
            "p50 wall, ms",
            lambda s: wall_ms(s.calls, 50),
            of_each=lambda s: wall_ms_of_each(s.calls, 50),
        ),
        Figure(
            "latency_p95_ms",
            "p95 wall, ms",
            lambda s: wall_ms(s.calls, 95),
            of_each=lambda s: wall_ms_of_each(s.calls, 95),
        ),
        Figure("latency_p99_ms", "p99 wall, ms", lambda s: wall_ms(s.calls, 99)),
        Figure("cpu_p50_ms", "p50 CPU, ms", lambda s: cpu_ms(s.calls, 50)),
        Figure(
            "throughput_per_s",
            "samples a second",
            lambda s: throughput_per_s(s.calls, s.batch),
            decimals=1,
        ),
        Figure(
            "first_inference_ms",
            "first inference, ms",
            lambda s: first_inference_ms(s.engine.starts),
            decimals=2,
            of_each=lambda s: first_inference_ms_of_each(s.engine.starts),
        ),
        Figure(
            "peak_memory_mib",
            "peak memory, MiB",
            lambda s: peak_mib(s.engine.starts),
            decimals=2,
            of_each=lambda s: peak_mib_of_each(s.engine.starts),
        ),
        Figure("steady_memory_mib", "steady memory, MiB", _steady_mib, decimals=2),
    )
}
"""Every figure by its name, in the order in which people and JSON get them."""
