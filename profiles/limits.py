"""Limits: all there is to know of each item of a budget, in one table.

To add a limit, add an entry here and a field of its name to `profiles.budget.Budget`; the gate,
the comparison with the last release, the reports and `plan` read both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from profiles.budget import Budget
from profiles.device import DeviceProfile
from profiles.figures import FIGURES, dense_samples, shipped_samples
from profiles.measurement import (
    Measurement,
    energy_mj,
    frames_ms,
    p95_ratio,
    peak_mib,
    time_ratio,
    top1_drop,
)
from profiles.requirements import (
    BETTER_THAN_CHANCE,
    CLOCK_TIME,
    ENERGY,
    MEMORY,
    MEMORY_OF_BOTH,
    NO_SAMPLES,
    P95_IN_EACH_PROCESS,
    SCORES,
    START_TIME,
    STEADY_MEMORY,
    WALL_TIME,
    Requirement,
    percentile_of_calls,
    percentile_of_frames,
)
from profiles.statistics import Interval, exact, score_bounds

Estimate = Callable[[Measurement], Interval]

LAST_RELEASE = "last:"
"""The beginning of the names of checks against the last release."""


@dataclass(frozen=True)
class TimeMark:
    """How a limit on wall times is marked in the drawings of times."""

    label: str
    percentile: int


@dataclass(frozen=True)
class Limit:
    """One item that a budget may limit."""

    name: str
    """The field of Budget, which ends in the unit."""
    label: str
    """The name that people read."""
    estimate: Estimate
    """The figure that is judged, in the unit of the name, with bounds."""
    unit: str = ""
    """The unit that people read; empty for counts and for parts of a whole."""
    scale: float = 1.0
    """The factor from the unit of the name to the unit that people read."""
    requirement: Requirement = NO_SAMPLES
    """What the samples behind the figure must be."""
    is_minimum: bool = False
    """Whether the figure must be at least the limit, not at most."""
    measured_on_gpu: bool = True
    """Whether the evidence from a device with a GPU says anything of it."""
    compared_with_last: bool = False
    """Whether `gate --against` refuses a figure that grew since the last release."""
    depends_on_processor: bool = False
    """Whether figures of different processors cannot be compared, as those of times cannot."""
    time_mark: TimeMark | None = None
    """How it is marked in the drawings of times; None where it is not on a wall time."""
    of_answers: bool = False
    """Whether it is on what the engine answers, and not on what it costs."""

    def share(self, figure: Interval, most: float) -> float:
        """The part of the limit that the figure takes at its worst bound; at most 1 passes."""
        if not self.is_minimum:
            return figure.upper / most
        return most / figure.lower if figure.lower > 0 else math.inf


def limit_of(check: str) -> Limit:
    """The limit that a check is of: one of the budget, or one against the last release."""
    return LIMITS[check.removeprefix(LAST_RELEASE)]


TIMES = frozenset(
    {
        "latency_p50_ms",
        "latency_p95_ms",
        "latency_p99_ms",
        "latency_p50_ratio",
        "latency_p95_ratio",
        "frame_p95_ms",
        "frame_p99_ms",
        "throughput_per_s",
    }
)
"""The limits that a network is pruned to where nothing else says how much to prune."""


def cost_limits(device: DeviceProfile, budget: Budget) -> dict[str, float]:
    """The limits on what the engine costs, and not on what it answers, as the device tells it."""
    unknown = not_measured_on(device)
    return {
        name: most
        for name, most in budget.limits().items()
        if not LIMITS[name].of_answers and name not in unknown
    }


def not_measured_on(device: DeviceProfile) -> frozenset[str]:
    """The names of the limits of which this device gives no evidence."""
    return frozenset(
        limit.name for limit in LIMITS.values() if device.on_gpu and not limit.measured_on_gpu
    )


def _figure_of_shipped(name: str) -> Estimate:
    return lambda measurement: FIGURES[name].estimate(shipped_samples(measurement))


def _count_ratio(name: str) -> Estimate:
    """The ratio shipped / dense of a figure that is counted, not sampled."""
    count = FIGURES[name].estimate

    def estimate(measurement: Measurement) -> Interval:
        shipped, dense = count(shipped_samples(measurement)), count(dense_samples(measurement))
        return exact(shipped.measured / dense.measured if dense.measured else math.nan)

    return estimate


def _latency_p50_ratio(measurement: Measurement) -> Interval:
    shipped, dense = shipped_samples(measurement), dense_samples(measurement)
    return time_ratio(shipped.calls, dense.calls, measurement.clock)


def _latency_p95_ratio(measurement: Measurement) -> Interval:
    shipped, dense = shipped_samples(measurement), dense_samples(measurement)
    return p95_ratio(shipped.calls, dense.calls, measurement.clock)


def _peak_memory_ratio(measurement: Measurement) -> Interval:
    """The ratio of the worst runs; its bounds take either run at its best and at its worst."""
    shipped, dense = peak_mib(measurement.shipped.starts), peak_mib(measurement.dense.starts)
    if not dense.lower > 0:
        return exact(math.nan)
    return Interval(
        shipped.measured / dense.measured,
        shipped.lower / dense.upper,
        shipped.upper / dense.lower,
    )


LIMITS: Mapping[str, Limit] = {
    limit.name: limit
    for limit in (
        Limit(
            "top1_drop",
            "Loss of accuracy",
            top1_drop,
            requirement=BETTER_THAN_CHANCE,
            of_answers=True,
        ),
        Limit(
            "top1_min",
            "Accuracy",
            lambda m: score_bounds(m.shipped.scores),
            requirement=SCORES,
            is_minimum=True,
            of_answers=True,
        ),
        Limit(
            "parity_error",
            "Engine's difference from its network",
            lambda m: exact(m.shipped.parity_error),
            of_answers=True,
        ),
        Limit(
            "macs",
            "MACs (1 MAC = 2 FLOPs)",
            _figure_of_shipped("macs"),
            unit="MMACs",
            scale=FIGURES["macs"].scale,
            compared_with_last=True,
        ),
        Limit("macs_ratio", "MACs, shipped / dense", _count_ratio("macs")),
        Limit(
            "parameters", "Parameters", _figure_of_shipped("parameters"), compared_with_last=True
        ),
        Limit("parameters_ratio", "Parameters, shipped / dense", _count_ratio("parameters")),
        Limit(
            "engine_size_mib",
            "Engine file",
            _figure_of_shipped("engine_size_mib"),
            unit="MiB",
            compared_with_last=True,
        ),
        Limit("engine_size_ratio", "Engine file, shipped / dense", _count_ratio("engine_size_mib")),
        Limit(
            "latency_p50_ms",
            "Median time of a call",
            _figure_of_shipped("latency_p50_ms"),
            unit="ms",
            requirement=WALL_TIME,
            compared_with_last=True,
            depends_on_processor=True,
            time_mark=TimeMark("p50", 50),
        ),
        Limit(
            "latency_p95_ms",
            "95th percentile of a call",
            _figure_of_shipped("latency_p95_ms"),
            unit="ms",
            requirement=percentile_of_calls(95),
            compared_with_last=True,
            depends_on_processor=True,
            time_mark=TimeMark("p95", 95),
        ),
        Limit(
            "latency_p99_ms",
            "99th percentile of a call",
            _figure_of_shipped("latency_p99_ms"),
            unit="ms",
            requirement=percentile_of_calls(99),
            depends_on_processor=True,
            time_mark=TimeMark("p99", 99),
        ),
        Limit(
            "latency_p50_ratio",
            "Median time, shipped / dense",
            _latency_p50_ratio,
            requirement=CLOCK_TIME,
        ),
        Limit(
            "latency_p95_ratio",
            "95th percentile, shipped / dense",
            _latency_p95_ratio,
            requirement=P95_IN_EACH_PROCESS,
        ),
        Limit(
            "frame_p95_ms",
            "95th percentile at the frame rate",
            lambda m: frames_ms(m.latency, 95),
            unit="ms",
            requirement=percentile_of_frames(95),
            depends_on_processor=True,
            time_mark=TimeMark("frame p95", 95),
        ),
        Limit(
            "frame_p99_ms",
            "99th percentile at the frame rate",
            lambda m: frames_ms(m.latency, 99),
            unit="ms",
            requirement=percentile_of_frames(99),
            depends_on_processor=True,
            time_mark=TimeMark("frame p99", 99),
        ),
        Limit(
            "first_inference_ms",
            "Loading and first call",
            _figure_of_shipped("first_inference_ms"),
            unit="ms",
            requirement=START_TIME,
            compared_with_last=True,
            depends_on_processor=True,
        ),
        Limit(
            "peak_memory_mib",
            "Peak memory",
            _figure_of_shipped("peak_memory_mib"),
            unit="MiB",
            requirement=MEMORY,
            measured_on_gpu=False,
            compared_with_last=True,
        ),
        Limit(
            "peak_memory_ratio",
            "Peak memory, shipped / dense",
            _peak_memory_ratio,
            requirement=MEMORY_OF_BOTH,
            measured_on_gpu=False,
        ),
        Limit(
            "steady_memory_mib",
            "Memory after the first calls",
            _figure_of_shipped("steady_memory_mib"),
            unit="MiB",
            requirement=STEADY_MEMORY,
            measured_on_gpu=False,
        ),
        Limit(
            "throughput_per_s",
            "Throughput",
            _figure_of_shipped("throughput_per_s"),
            unit="samples/s",
            requirement=WALL_TIME,
            is_minimum=True,
            depends_on_processor=True,
        ),
        Limit(
            "energy_mj",
            "Energy of a call",
            lambda m: energy_mj(m.latency),
            unit="mJ",
            requirement=ENERGY,
            depends_on_processor=True,
        ),
    )
}
"""Every limit by its name, in the order of Budget's fields."""
