"""Regression: a bundle beside the last one that was released, target by target."""

import math
from dataclasses import replace

from pipeline.release.bundle import Judged, Release
from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.gate import Check, Verdict, judge, unmeasured

FIGURES = (
    "macs",
    "parameters",
    "engine_size_mib",
    "latency_p50_ms",
    "latency_p95_ms",
    "first_inference_ms",
    "peak_memory_mib",
)
"""What may not grow."""
TIMES = ("latency_p50_ms", "latency_p95_ms", "first_inference_ms")


def against(found: Release, last: Release, tolerance: float, top1_drop: float) -> Release:
    """`found` with the checks "last:..." beside its own.

    No figure may be over that of `last` by more than the part `tolerance`, and the task's metric
    not below it by `top1_drop`, paired by sample. Raises ConfigError for a target that `last`
    has not.
    """
    old = {target.terms.device_name: target for target in last.targets}
    missing = [t.terms.device_name for t in found.targets if t.terms.device_name not in old]
    if missing:
        raise ConfigError(f"the last bundle has no target {missing[0]!r}: compare it by hand")
    targets = tuple(
        _compared(target, old[target.terms.device_name], tolerance, top1_drop)
        for target in found.targets
    )
    return Release(found.pruned, targets)


def _compared(target: Judged, last: Judged, tolerance: float, top1_drop: float) -> Judged:
    limits: dict[str, float] = {"top1_drop": top1_drop}
    checks = []
    for name, figure in last.shipped().items():
        if name not in FIGURES or name in unmeasured(target.terms.device):
            continue
        reason = _incomparable(name, figure, target, last)
        if reason:
            checks.append(
                Check(name, math.nan, math.nan, math.nan, math.nan, "inconclusive", reason)
            )
        else:
            limit = figure * (1 + tolerance)
            limits[name] = int(limit) if name in ("macs", "parameters") else limit
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
        target.terms.device_name,
        target.terms.device,
        target.measurement.shipped.sha256,
    )
    named = [replace(c, name=f"last:{c.name}") for c in (*verdict.checks, *checks)]
    return Judged(target.terms, target.measurement, Verdict((*target.verdict.checks, *named)))


def _incomparable(name: str, figure: float, target: Judged, last: Judged) -> str:
    if not math.isfinite(figure):
        return "the last release has no such figure"
    before, now = (one.measurement.host.processors() for one in (last, target))
    if name in TIMES and before != now:
        were, are = ", ".join(before), ", ".join(now)
        return f"the last release was measured on {were}, this one on {are}"
    return ""
