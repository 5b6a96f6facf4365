"""What the page shows of one target: each figure in words, in a table or in a drawing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.release.bundle import Judged
from pipeline.report.charts import bullet
from pipeline.report.svg import Drawing, drawable
from pipeline.report.target_charts import Chart, charts_of, paired_scores, score_bounds
from pipeline.report.text import comparison, slowest_rows
from pipeline.store.reports import Baseline, PruneReport
from profiles.gate import Check
from profiles.limits import LIMITS, limit_of
from profiles.looks import others_cores, was_throttled
from profiles.machine.conditions import Conditions
from profiles.measurement import LatencyRun, Measurement, energy_mj, top1_drop
from profiles.requirements import MAX_CONTROL_ERROR, control_error

NOT_REPORTED = "not reported by this machine"
NO_FIGURE = "no figure"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckView:
    """One line of the budget, as it is shown."""

    check: Check
    label: str
    measured: str
    bounds: str
    limit: str
    explanation: str
    """Why it did not pass; where it did, how far within the limit it is."""
    bullet: Drawing | None


@dataclass(frozen=True)
class Tile:
    """A figure that people remember."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class CorrectnessCounts:
    """The number of samples by which engines are right on them."""

    both_right: int
    only_dense_right: int
    only_shipped_right: int
    both_wrong: int


@dataclass(frozen=True)
class TargetView:
    """Everything on one target."""

    judged: Judged
    tiles: tuple[Tile, ...]
    checks: tuple[CheckView, ...]
    comparison: tuple[tuple[str, str, str, str], ...]
    correctness: CorrectnessCounts | None
    """None where scores do not pair, or are not only right (1) and wrong (0)."""
    scoring: str
    energy: str
    slowest: tuple[tuple[str, str, str], ...]
    """Rows of layer, ms, part of all layers."""
    charts: tuple[Chart, ...]
    conditions: tuple[tuple[str, str, str, str], ...]
    """Rows of name, least, median, most."""
    condition_notes: tuple[str, ...]
    """Sentences on the conditions."""


def target_view(
    judged: Judged,
    pruned: PruneReport,
    baselines: Sequence[Baseline],
) -> TargetView:
    """Everything that the page shows of a judged target."""
    measurement = judged.measurement
    return TargetView(
        judged=judged,
        tiles=_tiles(measurement),
        checks=tuple(_check_view(check) for check in judged.verdict.checks),
        comparison=tuple(comparison(judged)),
        correctness=_correctness(measurement),
        scoring=_scoring(measurement),
        energy=_energy(measurement),
        slowest=tuple(slowest_rows(measurement.shipped.layers_ms)),
        charts=charts_of(judged, pruned, baselines),
        conditions=_conditions(measurement),
        condition_notes=_condition_notes(measurement),
    )


def number(value: float) -> str:
    """Four digits, or all of a whole thousand."""
    if math.isnan(value):
        return NO_FIGURE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _check_view(check: Check) -> CheckView:
    limit = limit_of(check.name)
    lower, upper = number(limit.scale * check.lower), number(limit.scale * check.upper)
    sign = "≥" if limit.is_minimum else "≤"
    return CheckView(
        check,
        limit.label,
        _with_unit(limit.scale * check.measured, limit.unit),
        "" if math.isnan(check.measured) or lower == upper else f"[{lower}, {upper}]",
        f"{sign} {_with_unit(limit.scale * check.limit, limit.unit)}",
        check.reason or _spare(check),
        bullet(check),
    )


def _with_unit(value: float, unit: str) -> str:
    return number(value) if math.isnan(value) else f"{number(value)} {unit}".strip()


def _spare(check: Check) -> str:
    """How far within the limit the worse bound is, as a part of it."""
    is_minimum = limit_of(check.name).is_minimum
    spare = check.lower - check.limit if is_minimum else check.limit - check.upper
    if not check.limit or not math.isfinite(spare):
        return "within the limit"
    return f"{spare / check.limit:.0%} to spare"


def _tiles(measurement: Measurement) -> tuple[Tile, ...]:
    drop = top1_drop(measurement)
    clock = "CPU" if measurement.clock == "cpu" else "wall"
    change = UNKNOWN if math.isnan(drop.measured) else f"{0 - 100 * drop.measured:+.2f}"
    before, after = (score_bounds(e.scores) for e in (measurement.dense, measurement.shipped))
    means = f"points of 100: {before.measured:.4f} to {after.measured:.4f}"
    return (
        _ratio_tile(
            "Time", f"of the dense engine's {clock} time", "latency_p50_ratio", measurement
        ),
        _ratio_tile("MACs", "of the dense network's", "macs_ratio", measurement),
        Tile("Accuracy", change, means.replace("nan", UNKNOWN)),
        _ratio_tile("Engine file", "of the dense engine's size", "engine_size_ratio", measurement),
        _ratio_tile("Peak memory", "of the dense engine's", "peak_memory_ratio", measurement),
    )


def _ratio_tile(label: str, note: str, limit: str, measurement: Measurement) -> Tile:
    found = LIMITS[limit].estimate(measurement)
    value = UNKNOWN if math.isnan(found.measured) else f"{found.measured:.3f}"
    return Tile(label, value, note)


def _correctness(measurement: Measurement) -> CorrectnessCounts | None:
    pairs = paired_scores(measurement)
    if pairs is None or not np.isin(pairs, (0.0, 1.0)).all():
        return None
    dense, shipped = pairs.astype(bool)
    return CorrectnessCounts(
        both_right=int(np.sum(dense & shipped)),
        only_dense_right=int(np.sum(dense & ~shipped)),
        only_shipped_right=int(np.sum(~dense & shipped)),
        both_wrong=int(np.sum(~(dense | shipped))),
    )


def _scoring(measurement: Measurement) -> str:
    pairs = paired_scores(measurement)
    if pairs is None:
        return "The engines were not scored on the same samples: nothing can be paired."
    drop = top1_drop(measurement)
    return (
        f"Of {pairs.shape[1]:,} validation samples {int(np.sum(pairs[1] < pairs[0])):,} score "
        f"lower than with the dense engine, {int(np.sum(pairs[1] > pairs[0])):,} higher. The mean "
        f"drops by {number(drop.measured)} [{number(drop.lower)}, {number(drop.upper)}]."
    )


def _energy(measurement: Measurement) -> str:
    found = energy_mj(measurement.latency)
    if math.isnan(found.measured):
        return "Energy was not measured: the machine counts none, or not for this user."
    return (
        f"A call of the shipped engine takes {number(found.measured)} mJ "
        f"[{number(found.lower)}, {number(found.upper)}], as the machine counts it."
    )


def _conditions(measurement: Measurement) -> tuple[tuple[str, str, str, str], ...]:
    others = [others_cores(looks) for looks in _stretches(measurement)]
    return (
        _spread("load, 1 minute", measurement, lambda look: look.load_1min),
        _least_to_most("processors kept busy by other processes", others),
        _spread("clock, MHz", measurement, lambda look: look.mhz),
        _spread("temperature, °C", measurement, lambda look: look.temperature_c),
    )


def _stretches(measurement: Measurement) -> list[Sequence[Conditions]]:
    """The looks at the machine, a list for everything that was measured in one go."""
    return [looks for run in measurement.latency for looks in _stretches_of(run)]


def _stretches_of(run: LatencyRun) -> list[Sequence[Conditions]]:
    return [run.conditions, run.frame_conditions, run.energy_conditions]


def _spread(
    name: str, measurement: Measurement, of: Callable[[Conditions], float | None]
) -> tuple[str, str, str, str]:
    return _least_to_most(name, [of(look) for looks in _stretches(measurement) for look in looks])


def _least_to_most(name: str, values: Sequence[float | None]) -> tuple[str, str, str, str]:
    known = [value for value in values if value is not None and drawable(value)]
    if not known:
        return (name, NOT_REPORTED, "", "")
    return (name, number(min(known)), number(float(np.median(known))), number(max(known)))


def _condition_notes(measurement: Measurement) -> tuple[str, ...]:
    looks = [look for stretch in _stretches(measurement) for look in stretch]
    if not looks:
        return ("No times were measured, so no conditions either.",)
    throttled = [look.throttled for look in looks if look.throttled is not None]
    events = any(look.throttle_events is not None for look in looks)
    slowed = sum(
        any(was_throttled(looks) for looks in _stretches_of(run)) for run in measurement.latency
    )
    governors = sorted({look.governor for look in looks if look.governor is not None})
    control = control_error(measurement.latency, measurement.clock)
    processes = f"in {slowed} of {len(measurement.latency)} processes"
    settled = sum(run.warm for run in measurement.latency)
    differs = NO_FIGURE if math.isnan(control) else f"{control:.2%}"
    return (
        f"Throttled: {processes if throttled or events else NOT_REPORTED}.",
        f"Governor: {', '.join(governors) or NOT_REPORTED}.",
        f"Warm-up settled in {settled} of {len(measurement.latency)} processes.",
        f"The dense engine timed against itself differs by {differs}, {MAX_CONTROL_ERROR:.0%} at "
        "most.",
    )
