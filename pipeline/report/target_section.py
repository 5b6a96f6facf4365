"""What the page shows of one target: each figure in words, in a table or in a drawing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.release.bundle import Judged
from pipeline.report.charts import bullet
from pipeline.report.svg import Drawing, drawable
from pipeline.report.target_charts import Figure, figures_of, paired_scores, score_bounds
from pipeline.report.text import comparison, slowest_rows
from pipeline.store.reports import Baseline, PruneReport
from profiles.gate import AT_LEAST, ESTIMATES, MAX_CONTROL_ERROR, Check, control_error
from profiles.machine.conditions import Conditions
from profiles.measurement import Measurement, energy_mj, top1_drop

CHECKS: Mapping[str, tuple[str, str, float]] = {
    "top1_drop": ("Loss of accuracy", "", 1.0),
    "parity_error": ("Engine's difference from its network", "", 1.0),
    "macs": ("MACs (1 MAC = 2 FLOPs)", "MMACs", 1e-6),
    "macs_ratio": ("MACs, shipped / dense", "", 1.0),
    "parameters": ("Parameters", "", 1.0),
    "parameters_ratio": ("Parameters, shipped / dense", "", 1.0),
    "engine_size_mib": ("Engine file", "MiB", 1.0),
    "engine_size_ratio": ("Engine file, shipped / dense", "", 1.0),
    "latency_p50_ms": ("Median time of a call", "ms", 1.0),
    "latency_p95_ms": ("95th percentile of a call", "ms", 1.0),
    "latency_p99_ms": ("99th percentile of a call", "ms", 1.0),
    "latency_p50_ratio": ("Median time, shipped / dense", "", 1.0),
    "latency_p95_ratio": ("95th percentile, shipped / dense", "", 1.0),
    "frame_p95_ms": ("95th percentile at the frame rate", "ms", 1.0),
    "frame_p99_ms": ("99th percentile at the frame rate", "ms", 1.0),
    "first_inference_ms": ("Loading and first call", "ms", 1.0),
    "peak_memory_mib": ("Peak memory", "MiB", 1.0),
    "peak_memory_ratio": ("Peak memory, shipped / dense", "", 1.0),
    "throughput_per_s": ("Throughput", "samples/s", 1.0),
    "energy_mj": ("Energy of a call", "mJ", 1.0),
}
"""Each limit's name in words, its unit there, and what to multiply it by."""
UNTOLD = "not told by this machine"
NO_FIGURE = "no figure"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckView:
    """One line of the budget."""

    check: Check
    label: str
    measured: str
    bounds: str
    limit: str
    words: str
    bullet: Drawing | None


@dataclass(frozen=True)
class Tile:
    """A figure that people remember."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Answers:
    """Samples by whether the dense engine and the one that ships are right on them."""

    both: int
    lost: int
    won: int
    neither: int


@dataclass(frozen=True)
class TargetView:
    """Everything on one target."""

    judged: Judged
    tiles: tuple[Tile, ...]
    checks: tuple[CheckView, ...]
    comparison: tuple[tuple[str, str, str, str], ...]
    answers: Answers | None
    scoring: str
    energy: str
    slowest: tuple[tuple[str, str, str], ...]
    """Rows of layer, ms, part of all layers."""
    figures: tuple[Figure, ...]
    conditions: tuple[tuple[str, str, str, str], ...]
    """Rows of name, least, median, most."""
    remarks: tuple[str, ...]
    """On the conditions."""


def target_view(
    judged: Judged,
    pruned: PruneReport,
    baselines: Sequence[Baseline],
) -> TargetView:
    """All of it."""
    measurement = judged.measurement
    return TargetView(
        judged=judged,
        tiles=_tiles(measurement),
        checks=tuple(_check_view(check) for check in judged.verdict.checks),
        comparison=tuple(comparison(judged)),
        answers=_answers(measurement),
        scoring=_scoring(measurement),
        energy=_energy(measurement),
        slowest=tuple(slowest_rows(measurement.shipped.layers_ms)),
        figures=figures_of(judged, pruned, baselines),
        conditions=_conditions(measurement),
        remarks=_remarks(measurement),
    )


def number(value: float) -> str:
    """Four digits, or all of a whole thousand."""
    if math.isnan(value):
        return NO_FIGURE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _check_view(check: Check) -> CheckView:
    label, unit, scale = CHECKS[check.name]
    lower, upper = number(scale * check.lower), number(scale * check.upper)
    sign = "≥" if check.name in AT_LEAST else "≤"
    return CheckView(
        check,
        label,
        _with_unit(scale * check.measured, unit),
        "" if math.isnan(check.measured) or lower == upper else f"[{lower}, {upper}]",
        f"{sign} {_with_unit(scale * check.limit, unit)}",
        check.reason or _spare(check),
        bullet(check),
    )


def _with_unit(value: float, unit: str) -> str:
    return number(value) if math.isnan(value) else f"{number(value)} {unit}".strip()


def _spare(check: Check) -> str:
    """How far within the limit the worse bound is, as a part of it."""
    at_least = check.name in AT_LEAST
    spare = check.lower - check.limit if at_least else check.limit - check.upper
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


def _ratio_tile(label: str, note: str, check: str, measurement: Measurement) -> Tile:
    found = ESTIMATES[check](measurement)
    value = UNKNOWN if math.isnan(found.measured) else f"{found.measured:.3f}"
    return Tile(label, value, note)


def _answers(measurement: Measurement) -> Answers | None:
    """None where scores do not pair, or are not only right (1) and wrong (0)."""
    pairs = paired_scores(measurement)
    if pairs is None or not np.isin(pairs, (0.0, 1.0)).all():
        return None
    dense, shipped = pairs.astype(bool)
    return Answers(
        both=int(np.sum(dense & shipped)),
        lost=int(np.sum(dense & ~shipped)),
        won=int(np.sum(~dense & shipped)),
        neither=int(np.sum(~(dense | shipped))),
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
    others = [run.others_cores() for run in measurement.latency]
    return (
        _spread("load, 1 minute", measurement, lambda look: look.load_1min),
        _least_to_most("processors kept busy by other processes", others),
        _spread("clock, MHz", measurement, lambda look: look.mhz),
        _spread("temperature, °C", measurement, lambda look: look.temperature_c),
    )


def _spread(
    name: str, measurement: Measurement, of: Callable[[Conditions], float | None]
) -> tuple[str, str, str, str]:
    return _least_to_most(
        name, [of(look) for run in measurement.latency for look in run.conditions]
    )


def _least_to_most(name: str, values: Sequence[float | None]) -> tuple[str, str, str, str]:
    told = [value for value in values if value is not None and drawable(value)]
    if not told:
        return (name, UNTOLD, "", "")
    return (name, number(min(told)), number(float(np.median(told))), number(max(told)))


def _remarks(measurement: Measurement) -> tuple[str, ...]:
    looks = [look for run in measurement.latency for look in run.conditions]
    if not looks:
        return ("No times were measured, so no conditions either.",)
    throttled = [look.throttled for look in looks if look.throttled is not None]
    events = any(look.throttle_events is not None for look in looks)
    held = sum(run.was_throttled() for run in measurement.latency)
    governors = sorted({look.governor for look in looks if look.governor is not None})
    control = control_error(measurement.latency, measurement.clock)
    told = f"in {held} of {len(measurement.latency)} processes" if throttled or events else UNTOLD
    settled = sum(run.warm for run in measurement.latency)
    differs = NO_FIGURE if math.isnan(control) else f"{control:.2%}"
    return (
        f"Throttled: {told}.",
        f"Governor: {', '.join(governors) or UNTOLD}.",
        f"Warm-up settled in {settled} of {len(measurement.latency)} processes.",
        f"The dense engine timed against itself differs by {differs}, {MAX_CONTROL_ERROR:.0%} at "
        "most.",
    )
