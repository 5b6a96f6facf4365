"""Regression: a bundle beside the last one that was released, target by target."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from exporters.exporter import runtime_distributions
from pipeline.data.arrays import Float64
from pipeline.release.bundle import Judged, Release
from profiles.errors import ConfigError
from profiles.figures import FIGURES, OfEach, dense_samples, shipped_samples
from profiles.gate import Check, Verdict, check_figure, no_evidence
from profiles.limits import LAST_RELEASE, LIMITS, Limit, not_measured_on
from profiles.measurement import Measurement
from profiles.statistics import Interval, growth_bounds

SETTINGS: Mapping[str, Callable[[Measurement], object]] = {
    "on": lambda one: ", ".join(one.host.processors()),
    "with threads": lambda one: one.threads,
    "in batches of": lambda one: one.batch,
}
"""What times of two releases must have in common."""


def against(found: Release, last: Release, tolerance: float, top1_drop: float) -> Release:
    """`found` with the checks "last:..." beside its own.

    No figure may be over that of `last` by more than the part `tolerance`, and the task's metric
    not below it by `top1_drop`, paired by sample. Raises ConfigError for a target that `last`
    has not, and for a tolerance or a drop that is none.
    """
    for option, value in (("--tolerance", tolerance), ("--top1-drop", top1_drop)):
        if not 0 <= value < 1:  # nor NaN
            raise ConfigError(
                f"{option} {value:g}: give a fraction from 0 to below 1, such as 0.04"
            )
    old = {target.terms.device_name: target for target in last.targets}
    missing = [t.terms.device_name for t in found.targets if t.terms.device_name not in old]
    if missing:
        raise ConfigError(
            f"--against: the last bundle has no target {missing[0]!r}, only {', '.join(old)}: "
            "give a bundle made for the same targets"
        )
    targets = tuple(
        _compared(target, old[target.terms.device_name], tolerance, top1_drop)
        for target in found.targets
    )
    return Release(found.pruned, targets)


def _compared(target: Judged, last: Judged, tolerance: float, top1_drop: float) -> Judged:
    compared = [
        limit
        for limit in LIMITS.values()
        if limit.compared_with_last and limit.name not in not_measured_on(target.terms.device)
    ]
    checks = [
        _check_scores(target, last, top1_drop),
        *(_check(limit, target, last, tolerance) for limit in compared),
    ]
    named = [replace(c, name=f"{LAST_RELEASE}{c.name}") for c in checks]
    verdict = Verdict((*target.verdict.checks, *named))
    return Judged(target.terms, target.engine, target.measurement, verdict)


def _check_scores(target: Judged, last: Judged, top1_drop: float) -> Check:
    """The check that the task's metric is not lower by more than `top1_drop`."""
    limit, now, old = LIMITS["top1_drop"], target.measurement, last.measurement
    # The last release takes the dense network's place: its scores are what may not be lost.
    update = {"scores": old.shipped.scores, "samples_sha256": old.shipped.samples_sha256}
    beside = now.model_copy(update={"dense": now.dense.model_copy(update=update)})
    fault = _no_evidence(target, last) or limit.requirement.fault(beside)
    return check_figure(limit, limit.estimate(beside), top1_drop, fault)


def _check(limit: Limit, target: Judged, last: Judged, tolerance: float) -> Check:
    """The check that one figure did not grow by more than the tolerance."""
    now, old, before = target.measurement, last.measurement, last.shipped()[limit.name]
    most = _with_tolerance(before, tolerance)
    fault = _incomparable(limit, before, target, last) or _no_evidence(target, last)
    of_each = FIGURES[limit.name].of_each
    if of_each is None:
        return check_figure(limit, limit.estimate(now), most, fault)
    is_relative = limit.depends_on_processor and _have_one_reference(now, old)
    fault = fault or _sample_fault(limit, now, old, is_relative)
    after, earlier = (_each(of_each, one, is_relative) for one in (now, old))
    growth = growth_bounds(after, earlier)
    found = Interval(before * growth.measured, before * growth.lower, before * growth.upper)
    check = check_figure(limit, found, most, fault)
    if not fault and check.status == "inconclusive" and math.isfinite(growth.measured):
        known = growth.upper / growth.measured - 1
        reason = f"the change is known to within {known:.1%}, the tolerance is {tolerance:.1%}; "
        check = replace(check, reason=reason + "measure more processes and starts, or loosen it")
    if limit.depends_on_processor and not is_relative and check.reason:
        reason = "; compared without the dense engine, as it or its runtime is another one"
        check = replace(check, reason=check.reason + reason)
    return check


def _no_evidence(target: Judged, last: Judged) -> str:
    """Why either measurement is none of its engine and device; empty where both are."""
    fault = no_evidence(last.measurement, last.engine)
    of_last = f"the last release: {fault}" if fault else ""
    return no_evidence(target.measurement, target.engine) or of_last


def _sample_fault(limit: Limit, now: Measurement, old: Measurement, is_relative: bool) -> str:
    """What is wrong with the samples of either, those of the dense engine too if they count."""
    whose = {"": now, "the last release: ": old}
    if is_relative:
        whose |= {
            f"{name}the dense engine: ": one.model_copy(update={"shipped": one.dense})
            for name, one in whose.items()
        }
    faults = ((name, limit.requirement.fault(one)) for name, one in whose.items())
    return next((name + fault for name, fault in faults if fault), "")


def _have_one_reference(now: Measurement, old: Measurement) -> bool:
    """Whether both releases have the same dense engine, run by the same runtime."""
    same_engine = now.dense.sha256 == old.dense.sha256
    return same_engine and now.host.computes_as(old.host, runtime_distributions())


def _each(of_each: OfEach, measurement: Measurement, is_relative: bool) -> Float64:
    """The figure of each process, or as a part of the dense engine's in the same process or turn.

    How fast a machine is changes from hour to hour, and does so for both engines. NaN where the
    dense engine has no figure.
    """
    shipped = np.array(of_each(shipped_samples(measurement)), float)
    if not is_relative:
        return shipped
    dense = np.full_like(shipped, np.nan)
    own = of_each(dense_samples(measurement))[: len(shipped)]
    dense[: len(own)] = own
    return shipped / np.where(dense > 0, dense, np.nan)


def _with_tolerance(figure: float, tolerance: float) -> float:
    """The limit on a figure; a whole number for what is counted."""
    limit = figure * (1 + tolerance)
    return int(limit) if isinstance(figure, int) else limit


def _incomparable(limit: Limit, figure: float, target: Judged, last: Judged) -> str:
    if not math.isfinite(figure):
        return "the last release has no such figure; compare with a bundle that has"
    if figure <= 0:
        return f"the last release's figure is {figure:g}: nothing can be said of a part of it"
    if not limit.depends_on_processor:
        return ""
    for what, of in SETTINGS.items():
        before, now = of(last.measurement), of(target.measurement)
        if before != now:
            return f"the last release was measured {what} {before}, this one {what} {now}"
    return ""
