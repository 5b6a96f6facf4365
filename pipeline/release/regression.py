"""Regression: a bundle beside the last one that was released, target by target."""

import math
from dataclasses import replace

from pipeline.release.bundle import Judged, Release
from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.gate import Check, EngineForDevice, Verdict, judge
from profiles.limits import LAST_RELEASE, LIMITS, Limit, not_measured_on


def against(found: Release, last: Release, tolerance: float, top1_drop: float) -> Release:
    """`found` with the checks "last:..." beside its own.

    No figure may be over that of `last` by more than the part `tolerance`, and the task's metric
    not below it by `top1_drop`, paired by sample. Raises ConfigError for a target that `last`
    has not, and for a tolerance or a drop that is none.
    """
    for option, value in (("--tolerance", tolerance), ("--top1-drop", top1_drop)):
        if not 0 <= value < 1:  # nor NaN
            raise ConfigError(
                f"{option} {value:g}: give a fraction from 0 to below 1, such as 0.02"
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
    limits: dict[str, float] = {"top1_drop": top1_drop}
    checks = []
    figures, not_measured = last.shipped(), not_measured_on(terms.device)
    for name, limit in LIMITS.items():
        if not limit.compared_with_last or name in not_measured:
            continue
        reason = _incomparable(limit, figures[name], target, last)
        if reason:
            checks.append(
                Check(name, math.nan, math.nan, math.nan, math.nan, "inconclusive", reason)
            )
        else:
            limits[name] = _with_tolerance(figures[name], tolerance)
    # The last release takes the dense network's place: its scores are what may not be lost.
    baseline = target.measurement.dense.model_copy(
        update={
            "scores": last.measurement.shipped.scores,
            "samples_sha256": last.measurement.shipped.samples_sha256,
        }
    )
    verdict = judge(
        target.measurement.model_copy(update={"dense": baseline}),
        Budget.model_validate(limits),
        EngineForDevice(target.measurement.shipped.sha256, terms.device_name, terms.device),
    )
    named = [replace(c, name=f"{LAST_RELEASE}{c.name}") for c in (*verdict.checks, *checks)]
    return Judged(terms, target.measurement, Verdict((*target.verdict.checks, *named)))


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
