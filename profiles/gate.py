"""The gate: measurement and budget in, verdict out. It fails closed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from profiles.budget import Budget
from profiles.device import DeviceProfile
from profiles.limits import LIMITS, Limit, not_measured_on
from profiles.measurement import Measurement
from profiles.statistics import Interval
from profiles.waiver import NO_WAIVERS, AcceptedWaivers, Waiver

Status = Literal["pass", "waived", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive"]
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 6}


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


@dataclass(frozen=True)
class EngineForDevice:
    """The engine that would ship, and the device that it is for."""

    sha256: str
    """The digest of the engine's file."""
    device_name: str
    device: DeviceProfile


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several verdicts together; none at all is no evidence."""
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes and set(outcomes) == {"pass"} else "inconclusive"


def judge(
    measurement: Measurement,
    budget: Budget,
    engine: EngineForDevice,
    accepted: AcceptedWaivers = NO_WAIVERS,
) -> Verdict:
    """Judge every limit of `budget`.

    Evidence of another engine, another device or other settings is no evidence, nor is any of an
    engine whose outputs were never compared with its network's. An accepted waiver raises a limit,
    never more.
    """
    mismatch = no_evidence(measurement, engine)
    checks = []
    for name, most in budget.limits().items():
        limit = LIMITS[name]
        figure = limit.estimate(measurement)
        fault = mismatch or _not_measured(name, engine) or limit.requirement.fault(measurement)
        check = check_figure(limit, figure, most, fault)
        for waiver in accepted.waivers:
            if check.status != "pass" and waiver.names(name, engine.device_name, engine.sha256):
                raised = check_figure(limit, figure, waiver.limit, fault)
                check = _waived(check, raised, waiver, accepted.today)
        checks.append(check)
    return Verdict(tuple(checks))


def check_figure(limit: Limit, figure: Interval, most: float, fault: str) -> Check:
    """Judge one figure by `most`, which is the least where the limit is a minimum.

    `fault` says why the figure counts for nothing; empty where it counts.
    """
    status, reason = _status(figure, most, limit.is_minimum)
    if not fault and any(math.isnan(f) for f in (figure.measured, figure.lower, figure.upper)):
        fault = "no usable figure; measure again"
    if fault:
        status, reason = "inconclusive", fault
    return Check(limit.name, figure.measured, figure.lower, figure.upper, most, status, reason)


def no_evidence(measurement: Measurement, engine: EngineForDevice) -> str:
    """Why the measurement is no evidence on this engine and device; empty where it is."""
    device = engine.device
    if measurement.shipped.sha256 != engine.sha256:
        return "stale: another engine file was measured; measure again"
    if measurement.device != engine.device_name:
        return f"measured for {measurement.device}, not {engine.device_name}; measure again"
    mismatch = device.mismatch(measurement.host)
    if mismatch:
        return f"the machine that measured is not the device: {mismatch}; measure on the device"
    if measurement.threads != device.threads:
        return f"measured with {measurement.threads} threads, the device runs {device.threads}"
    if measurement.batch != device.batch:
        return f"measured in batches of {measurement.batch}, the device runs {device.batch}"
    if measurement.clock != device.clock:
        return f"measured by {measurement.clock} time, the device goes by {device.clock} time"
    unverified = measurement.shipped.unverified or measurement.dense.unverified
    if unverified:
        return f"the engine's outputs were never compared with the model's: {unverified}"
    return ""


def _not_measured(name: str, engine: EngineForDevice) -> str:
    if name in not_measured_on(engine.device):
        return "the GPU's memory was not measured, only the process's own"
    return ""


def _status(figure: Interval, limit: float, is_minimum: bool) -> tuple[Status, str]:
    if is_minimum:
        mirrored = Interval(-figure.measured, -figure.upper, -figure.lower)
        status, reason = _status(mirrored, -limit, False)
        return status, reason.replace("over", "short")
    if math.isfinite(figure.upper) and figure.upper <= limit:
        return "pass", ""
    if figure.lower > limit:
        return "fail", f"over by {figure.measured - limit:.4g}"
    return "inconclusive", "the limit lies inside the interval; more samples narrow it"


def _waived(check: Check, raised: Check, waiver: Waiver, today: date) -> Check:
    """`raised`, the check under the waiver's limit, where it passes; else `check` and why not."""
    if waiver.expires < today:
        return replace(check, reason=f"{check.reason}; its waiver expired on {waiver.expires}")
    if raised.status != "pass":
        return replace(check, reason=f"{check.reason}; its waiver goes up to {waiver.limit:.6g}")
    reason = f"{check.reason}; waived until {waiver.expires} by {waiver.signed_off_by}: "
    return replace(check, status="waived", reason=reason + waiver.reason)
