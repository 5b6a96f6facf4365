"""Regression: a bundle beside the last one that was released, target by target."""

import math
from dataclasses import replace

import numpy as np

from pipeline.data.arrays import Float64
from pipeline.release.bundle import Judged, Release
from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.figures import FIGURES, OfEach, dense_samples, shipped_samples
from profiles.gate import Check, EngineForDevice, Verdict, check_figure, judge, no_evidence
from profiles.limits import LAST_RELEASE, LIMITS, Limit, not_measured_on
from profiles.measurement import Measurement
from profiles.statistics import Interval, growth_bounds


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
    terms = target.terms
    engine = EngineForDevice(target.measurement.shipped.sha256, terms.device_name, terms.device)
    compared = [
        limit
        for limit in LIMITS.values()
        if limit.compared_with_last and limit.name not in not_measured_on(terms.device)
    ]
    # The last release takes the dense network's place: its scores are what may not be lost.
    baseline = target.measurement.dense.model_copy(
        update={
            "scores": last.measurement.shipped.scores,
            "samples_sha256": last.measurement.shipped.samples_sha256,
        }
    )
    beside_last = target.measurement.model_copy(update={"dense": baseline})
    checks = [
        *judge(beside_last, Budget(top1_drop=top1_drop), engine).checks,
        *(_check(limit, target, last, tolerance) for limit in compared),
    ]
    named = [replace(c, name=f"{LAST_RELEASE}{c.name}") for c in checks]
    return Judged(terms, target.measurement, Verdict((*target.verdict.checks, *named)))


def _check(limit: Limit, target: Judged, last: Judged, tolerance: float) -> Check:
    """The check that one figure did not grow by more than the tolerance."""
    terms, now, old = target.terms, target.measurement, last.measurement
    before = last.shipped()[limit.name]
    most = _with_tolerance(before, tolerance)
    old_fault = limit.requirement.fault(old)
    fault = (
        _incomparable(limit, before, target, last)
        or no_evidence(now, EngineForDevice(now.shipped.sha256, terms.device_name, terms.device))
        or limit.requirement.fault(now)
        or (old_fault and f"the last release: {old_fault}")
    )
    of_each = FIGURES[limit.name].of_each
    if of_each is None:
        return check_figure(limit, limit.estimate(now), most, fault)
    growth = _growth(limit, of_each, now, old)
    found = Interval(before * growth.measured, before * growth.lower, before * growth.upper)
    check = check_figure(limit, found, most, fault)
    if fault or check.status != "inconclusive":
        return check
    return replace(
        check,
        reason=f"the change is known to within {growth.upper / growth.measured - 1:.1%}, the "
        f"tolerance is {tolerance:.1%}; raise measure.processes and measure.starts, or --tolerance",
    )


def _growth(limit: Limit, of_each: OfEach, now: Measurement, old: Measurement) -> Interval:
    """How many times as large the figure is as in the last release.

    Times are taken relative to those of the dense engine in the same processes, where both
    releases have the same one: how fast a machine is changes from hour to hour.
    """
    after, before = (np.array(of_each(shipped_samples(one)), float) for one in (now, old))
    same_engine = now.dense.sha256 == old.dense.sha256
    if limit.depends_on_processor and same_engine and now.host.versions == old.host.versions:
        now_dense, old_dense = (np.array(of_each(dense_samples(one)), float) for one in (now, old))
        if (len(now_dense), len(old_dense)) == (len(after), len(before)):
            after, before = _ratios(after, now_dense), _ratios(before, old_dense)
    return growth_bounds(after, before)


def _ratios(above: Float64, below: Float64) -> Float64:
    return above / np.where(below > 0, below, np.nan)


def _with_tolerance(figure: float, tolerance: float) -> float:
    """The limit on a figure; a whole number for what is counted."""
    limit = figure * (1 + tolerance)
    return int(limit) if isinstance(figure, int) else limit


def _incomparable(limit: Limit, figure: float, target: Judged, last: Judged) -> str:
    if not math.isfinite(figure):
        return "the last release has no such figure; compare with a bundle that has"
    if figure <= 0:
        return f"the last release's figure is {figure:g}: nothing can be said of a part of it"
    before, now = (one.measurement.host.processors() for one in (last, target))
    if limit.depends_on_processor and before != now:
        were, are = ", ".join(before), ", ".join(now)
        return f"the last release was measured on {were}, this one on {are}"
    return ""
