"""The gate: measurement and budget in, verdict out. It fails closed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from profiles.device import Budget, DeviceProfile
from profiles.measurement import Measurement, cpu_ratio, peak_mib, top1_drop, wall_ms
from profiles.statistics import Interval, exact

Status = Literal["pass", "fail", "inconclusive"]
EXIT_CODES: Mapping[Status, int] = {"pass": 0, "fail": 1, "inconclusive": 6}

MIN_PROCESSES = 5
MIN_SAMPLES = 59
"""The fewest samples from which a 95th percentile has a 95 % bound: 1 - 0.95**59 > 0.95."""
MAX_CONTROL_ERROR = 0.02
"""How far the same engine timed twice may differ before a session's times are void."""
MIN_MEMORY_RUNS = 3


@dataclass(frozen=True)
class Check:
    """One budget item, judged. A missing figure is NaN."""

    name: str
    measured: float
    lower: float
    upper: float
    limit: float
    status: Status
    reason: str


@dataclass(frozen=True)
class Verdict:
    """All checks; `status` is what releases or refuses."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """Any fail, else any inconclusive, else pass; no check at all is no evidence."""
        found = {check.status for check in self.checks}
        if "fail" in found:
            return "fail"
        return "pass" if found == {"pass"} else "inconclusive"


def judge(
    measurement: Measurement,
    budget: Budget,
    device_name: str,
    device: DeviceProfile,
    engine_sha256: str,
) -> Verdict:
    """Judge every limit of `budget`.

    `engine_sha256` is the digest of the engine that would ship: evidence of another engine,
    another device or another number of threads is no evidence, nor is any of an engine whose
    outputs were never compared with its network's.
    """
    foreign = _foreign(measurement, device_name, device, engine_sha256)
    return Verdict(
        tuple(_check(name, limit, measurement, foreign) for name, limit in budget.limits().items())
    )


def control_error(measurement: Measurement) -> float:
    """How far the dense engine timed against itself is from 1; NaN without samples."""
    runs = measurement.latency
    same = cpu_ratio([run.control for run in runs], [run.dense for run in runs])
    return abs(same.measured - 1)


def _foreign(
    measurement: Measurement, device_name: str, device: DeviceProfile, engine_sha256: str
) -> str:
    if measurement.shipped.sha256 != engine_sha256:
        return "stale: another engine file was measured; measure again"
    if measurement.device != device_name:
        return f"measured for {measurement.device}, not {device_name}; measure again"
    if device.machine not in (None, measurement.host.machine):
        return (
            f"measured on a {measurement.host.machine}, but the device is a {device.machine}; "
            "measure on the device"
        )
    if measurement.threads != device.threads:
        return f"measured with {measurement.threads} threads, the device runs {device.threads}"
    unverified = measurement.shipped.unverified or measurement.dense.unverified
    return f"built, unverified: {unverified}" if unverified else ""


def _check(name: str, limit: float, measurement: Measurement, foreign: str) -> Check:
    interval = ESTIMATES[name](measurement)
    reason = foreign or REQUIREMENTS.get(name, _nothing)(measurement)
    figures = (interval.measured, interval.lower, interval.upper)
    if not reason and any(math.isnan(figure) for figure in figures):
        reason = "no usable figure; measure again"
    status, why = _status(interval, limit)
    if reason:
        status, why = "inconclusive", reason
    return Check(name, *figures, limit, status, why)


def _status(interval: Interval, limit: float) -> tuple[Status, str]:
    if math.isfinite(interval.upper) and interval.upper <= limit:
        return "pass", ""
    if interval.lower > limit:
        return "fail", f"over by {interval.measured - limit:.4g}"
    return "inconclusive", "the limit lies inside the interval; more samples narrow it"


def _timed(measurement: Measurement) -> str:
    runs = measurement.latency
    if len(runs) < MIN_PROCESSES:
        return f"{len(runs)} processes measured, {MIN_PROCESSES} needed"
    if not all(run.is_whole() for run in runs):
        return "samples are missing; measure again"
    if sum(len(run.shipped.wall_ns) for run in runs) < MIN_SAMPLES:
        return f"fewer than {MIN_SAMPLES} samples; measure for longer"
    if not all(run.warm for run in runs):
        return "the warm-up did not settle; free the machine and measure again"
    error = control_error(measurement)
    if not error <= MAX_CONTROL_ERROR:
        return (
            f"the control differs by {error:.1%} from itself, {MAX_CONTROL_ERROR:.0%} at most; "
            "free the machine and measure again"
        )
    return ""


def _weighed(measurement: Measurement) -> str:
    runs = measurement.shipped.memory
    if len(runs) < MIN_MEMORY_RUNS:
        return f"{len(runs)} memory runs, {MIN_MEMORY_RUNS} needed"
    grew = all(run.peak_mib > run.baseline_mib > 0 for run in runs)
    return "" if grew else "a peak below its own baseline; measure again"


def _nothing(measurement: Measurement) -> str:
    return ""


def _p50_ratio(measurement: Measurement) -> Interval:
    runs = measurement.latency
    return cpu_ratio([run.shipped for run in runs], [run.dense for run in runs])


def _macs_ratio(measurement: Measurement) -> Interval:
    dense = measurement.dense.macs
    return exact(measurement.shipped.macs / dense if dense else math.nan)


ESTIMATES: Mapping[str, Callable[[Measurement], Interval]] = {
    "top1_drop": top1_drop,
    "macs": lambda m: exact(m.shipped.macs),
    "macs_ratio": _macs_ratio,
    "parameters": lambda m: exact(m.shipped.parameters),
    "engine_size_mib": lambda m: exact(m.shipped.size_bytes / (1 << 20)),
    "latency_p50_ms": lambda m: wall_ms([run.shipped for run in m.latency], 50),
    "latency_p95_ms": lambda m: wall_ms([run.shipped for run in m.latency], 95),
    "latency_p50_ratio": _p50_ratio,
    "peak_memory_mib": lambda m: peak_mib(m.shipped.memory),
}
"""How each field of Budget is measured; a test holds the two together."""

REQUIREMENTS: Mapping[str, Callable[[Measurement], str]] = {
    "latency_p50_ms": _timed,
    "latency_p95_ms": _timed,
    "latency_p50_ratio": _timed,
    "peak_memory_mib": _weighed,
}
"""What the samples behind a figure must be; the answer says what is wrong, or nothing."""
