"""The gate: measurement and budget in, verdict out. It fails closed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from profiles.budget import Budget
from profiles.device import DeviceProfile
from profiles.measurement import (
    MIB,
    CallTimes,
    LatencyRun,
    Measurement,
    energy_mj,
    first_inference_ms,
    frames_ms,
    p95_ratio,
    peak_mib,
    throughput_per_s,
    time_ratio,
    top1_drop,
    wall_ms,
)
from profiles.statistics import Interval, exact
from profiles.waiver import Waiver

Status = Literal["pass", "waived", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive"]
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 6}

MIN_PROCESSES = 5
MIN_SAMPLES = {95: 59, 99: 299}
"""The fewest calls from which a percentile has a 95 % bound: 1 - 0.95**59 and 1 - 0.99**299."""
MAX_CONTROL_ERROR = 0.01
"""How far the same engine timed twice may differ before a session's times are void."""
SPARE_CORES = 0.1
"""How much more work than processors there may be before wall times are void."""
MIN_STARTS = 3
OF_MEMORY = frozenset({"peak_memory_mib", "peak_memory_ratio"})
"""What is counted in the process alone, and not on a GPU."""
AT_LEAST = frozenset({"throughput_per_s"})
"""Limits that are minima."""


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
    def status(self) -> Outcome:
        """Any fail, else any inconclusive, else pass; no check at all is no evidence."""
        found = {check.status for check in self.checks}
        if "fail" in found:
            return "fail"
        return "pass" if found and found <= {"pass", "waived"} else "inconclusive"


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several verdicts together; none at all is no evidence."""
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes and set(outcomes) == {"pass"} else "inconclusive"


def judge(
    measurement: Measurement,
    budget: Budget,
    device_name: str,
    device: DeviceProfile,
    engine_sha256: str,
    waivers: Sequence[Waiver] = (),
    today: date = date.max,
) -> Verdict:
    """Judge every limit of `budget`.

    `engine_sha256` is the digest of the engine that would ship: evidence of another engine,
    another device or other settings is no evidence, nor is any of an engine whose outputs were
    never compared with its network's. A waiver that is valid `today` raises a limit, never more.
    """
    anywhere = _foreign(measurement, device_name, device, engine_sha256)
    checks = []
    for name, limit in budget.limits().items():
        foreign = anywhere
        if name in unmeasured(device):
            foreign = foreign or "the GPU's memory was not measured, only the process's own"
        check = _check(name, limit, measurement, foreign)
        for waiver in waivers:
            if check.status != "pass" and waiver.names(name, device_name, engine_sha256):
                check = _waived(check, waiver, measurement, foreign, today)
        checks.append(check)
    return Verdict(tuple(checks))


def unmeasured(device: DeviceProfile) -> frozenset[str]:
    """The limits of which this device gives no evidence."""
    return OF_MEMORY if device.on_gpu else frozenset()


def control_error(runs: Sequence[LatencyRun], clock: Literal["cpu", "wall"]) -> float:
    """How far the dense engine timed against itself is from 1; NaN without samples."""
    same = time_ratio([run.control for run in runs], [run.dense for run in runs], clock)
    return abs(same.measured - 1)


def _foreign(
    measurement: Measurement, device_name: str, device: DeviceProfile, engine_sha256: str
) -> str:
    if measurement.shipped.sha256 != engine_sha256:
        return "stale: another engine file was measured; measure again"
    if measurement.device != device_name:
        return f"measured for {measurement.device}, not {device_name}; measure again"
    unlike = device.unlike(measurement.host)
    if unlike:
        return f"what measured is not the device: {unlike}; measure on the device"
    if measurement.threads != device.threads:
        return f"measured with {measurement.threads} threads, the device runs {device.threads}"
    if measurement.batch != device.batch:
        return f"measured in batches of {measurement.batch}, the device runs {device.batch}"
    if measurement.clock != device.clock:
        return f"measured by {measurement.clock} time, the device goes by {device.clock} time"
    unverified = measurement.shipped.unverified or measurement.dense.unverified
    return f"built, unverified: {unverified}" if unverified else ""


def _check(name: str, limit: float, measurement: Measurement, foreign: str) -> Check:
    interval = ESTIMATES[name](measurement)
    reason = foreign or REQUIREMENTS.get(name, _nothing)(measurement)
    figures = (interval.measured, interval.lower, interval.upper)
    if not reason and any(math.isnan(figure) for figure in figures):
        reason = "no usable figure; measure again"
    status, why = _status(interval, limit, name in AT_LEAST)
    if reason:
        status, why = "inconclusive", reason
    return Check(name, *figures, limit, status, why)


def _status(interval: Interval, limit: float, at_least: bool) -> tuple[Status, str]:
    if at_least:
        mirrored = Interval(-interval.measured, -interval.upper, -interval.lower)
        status, why = _status(mirrored, -limit, False)
        return status, why.replace("over", "short")
    if math.isfinite(interval.upper) and interval.upper <= limit:
        return "pass", ""
    if interval.lower > limit:
        return "fail", f"over by {interval.measured - limit:.4g}"
    return "inconclusive", "the limit lies inside the interval; more samples narrow it"


def _waived(
    check: Check, waiver: Waiver, measurement: Measurement, foreign: str, today: date
) -> Check:
    """The check under the waiver's limit; what is not within that either stays as it is."""
    if waiver.expires < today:
        return replace(check, reason=f"{check.reason}; its waiver expired on {waiver.expires}")
    if _check(check.name, waiver.limit, measurement, foreign).status != "pass":
        return replace(check, reason=f"{check.reason}; its waiver goes up to {waiver.limit:.6g}")
    reason = f"{check.reason}; waived until {waiver.expires} by {waiver.signed_off_by}: "
    return replace(check, status="waived", reason=reason + waiver.reason)


def _timed(measurement: Measurement) -> str:
    runs = measurement.latency
    if len(runs) < MIN_PROCESSES:
        return f"{len(runs)} processes measured, {MIN_PROCESSES} needed"
    if not all(run.is_whole() for run in runs):
        return "samples are missing; measure again"
    if not all(run.warm for run in runs):
        return "the warm-up did not settle; free the machine and measure again"
    if any(run.was_throttled() for run in runs):
        return "the processor was throttled; cool the device, check its power, measure again"
    error = control_error(runs, measurement.clock)
    if not error <= MAX_CONTROL_ERROR:
        return (
            f"the control differs by {error:.1%} from itself, {MAX_CONTROL_ERROR:.0%} at most; "
            "free the machine and measure again"
        )
    return ""


def _timed_by_wall(measurement: Measurement) -> str:
    return _timed(measurement) or _crowded(measurement)


def _timed_by_clock(measurement: Measurement) -> str:
    crowded = _crowded(measurement) if measurement.clock == "wall" else ""
    return _timed(measurement) or crowded


def _crowded(measurement: Measurement) -> str:
    """Whether there was more to do than processors to do it: wall times then hold waiting."""
    cores = measurement.host.cores
    for run in measurement.latency:
        others = run.others_cores() or 0.0
        if not measurement.threads + others <= cores + SPARE_CORES:
            return (
                f"other processes kept {others:.1f} of {cores} processors busy; "
                "free the machine and measure again"
            )
    return ""


def _tail(percentile: int) -> Callable[[Measurement], str]:
    def requirement(measurement: Measurement) -> str:
        calls = sum(len(run.shipped.wall_ns) for run in measurement.latency)
        return _timed_by_wall(measurement) or _enough(calls, percentile)

    return requirement


def _framed(percentile: int) -> Callable[[Measurement], str]:
    def requirement(measurement: Measurement) -> str:
        counts = [len(run.frames_ns) for run in measurement.latency]
        if not all(counts):
            return "not measured at a fixed frame interval; set measure.frame_interval_ms"
        return _timed_by_wall(measurement) or _enough(sum(counts), percentile)

    return requirement


def _enough(calls: int, percentile: int) -> str:
    least = MIN_SAMPLES[percentile]
    return "" if calls >= least else f"{calls} calls, a p{percentile} needs {least}; measure longer"


def _p95_by_clock(measurement: Measurement) -> str:
    fewest = min((len(run.shipped.wall_ns) for run in measurement.latency), default=0)
    return _timed_by_clock(measurement) or _enough(fewest, 95)


def _counted_energy(measurement: Measurement) -> str:
    if any(run.energy_mj is None for run in measurement.latency):
        return "the machine counts no energy, or not for this user (RAPL is for root alone)"
    return _timed_by_wall(measurement)


def _started(measurement: Measurement) -> str:
    starts = measurement.shipped.starts
    if len(starts) < MIN_PROCESSES:
        return f"{len(starts)} starts measured, {MIN_PROCESSES} needed"
    took = all(run.load_ms > 0 and run.first_ms > 0 for run in starts)
    return "" if took else "a start that took no time; measure again"


def _weighed(measurement: Measurement) -> str:
    starts = measurement.shipped.starts
    if len(starts) < MIN_STARTS:
        return f"{len(starts)} memory runs, {MIN_STARTS} needed"
    grew = all(run.peak_mib > run.baseline_mib > 0 for run in starts)
    return "" if grew else "a peak below its own baseline; measure again"


def _weighed_both(measurement: Measurement) -> str:
    swapped = measurement.model_copy(update={"shipped": measurement.dense})
    return _weighed(measurement) or _weighed(swapped)


def _nothing(measurement: Measurement) -> str:
    return ""


def _shipped(measurement: Measurement) -> list[CallTimes]:
    return [run.shipped for run in measurement.latency]


def _dense(measurement: Measurement) -> list[CallTimes]:
    return [run.dense for run in measurement.latency]


def _ratio(shipped: float, dense: float) -> Interval:
    return exact(shipped / dense if dense else math.nan)


def _memory_ratio(measurement: Measurement) -> Interval:
    shipped, dense = peak_mib(measurement.shipped.starts), peak_mib(measurement.dense.starts)
    if not dense.lower > 0:
        return exact(math.nan)
    return Interval(
        shipped.measured / dense.measured,
        shipped.lower / dense.upper,
        shipped.upper / dense.lower,
    )


ESTIMATES: Mapping[str, Callable[[Measurement], Interval]] = {
    "top1_drop": top1_drop,
    "parity_error": lambda m: exact(m.shipped.parity_error),
    "macs": lambda m: exact(m.shipped.macs),
    "macs_ratio": lambda m: _ratio(m.shipped.macs, m.dense.macs),
    "parameters": lambda m: exact(m.shipped.parameters),
    "parameters_ratio": lambda m: _ratio(m.shipped.parameters, m.dense.parameters),
    "engine_size_mib": lambda m: exact(m.shipped.size_bytes / MIB),
    "engine_size_ratio": lambda m: _ratio(m.shipped.size_bytes, m.dense.size_bytes),
    "latency_p50_ms": lambda m: wall_ms(_shipped(m), 50),
    "latency_p95_ms": lambda m: wall_ms(_shipped(m), 95),
    "latency_p99_ms": lambda m: wall_ms(_shipped(m), 99),
    "latency_p50_ratio": lambda m: time_ratio(_shipped(m), _dense(m), m.clock),
    "latency_p95_ratio": lambda m: p95_ratio(_shipped(m), _dense(m), m.clock),
    "frame_p95_ms": lambda m: frames_ms(m.latency, 95),
    "frame_p99_ms": lambda m: frames_ms(m.latency, 99),
    "first_inference_ms": lambda m: first_inference_ms(m.shipped.starts),
    "peak_memory_mib": lambda m: peak_mib(m.shipped.starts),
    "peak_memory_ratio": _memory_ratio,
    "throughput_per_s": lambda m: throughput_per_s(_shipped(m), m.batch),
    "energy_mj": lambda m: energy_mj(m.latency),
}
"""How each field of Budget is measured; a test holds the two together."""

REQUIREMENTS: Mapping[str, Callable[[Measurement], str]] = {
    "latency_p50_ms": _timed_by_wall,
    "latency_p95_ms": _tail(95),
    "latency_p99_ms": _tail(99),
    "latency_p50_ratio": _timed_by_clock,
    "latency_p95_ratio": _p95_by_clock,
    "frame_p95_ms": _framed(95),
    "frame_p99_ms": _framed(99),
    "first_inference_ms": _started,
    "peak_memory_mib": _weighed,
    "peak_memory_ratio": _weighed_both,
    "throughput_per_s": _timed_by_wall,
    "energy_mj": _counted_energy,
}
"""What the samples behind a figure must be; the answer says what is wrong, or nothing."""
