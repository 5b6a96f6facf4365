"""The charts of a page: figures in, drawings out, None where there is nothing to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np

from pipeline.data.arrays import Float64
from pipeline.report.svg import (
    LEFT,
    RIGHT,
    Drawing,
    Scale,
    add,
    axis_across,
    axis_up,
    bar_across,
    bar_up,
    box,
    canvas,
    drawable,
    line,
    marker,
    name_words,
    scale_over,
    spread,
    words,
)
from profiles.gate import Check
from profiles.limits import limit_of
from profiles.measurement import NS_PER_MS, StartRun
from profiles.statistics import Interval

Kind = Literal["dense", "shipped", "paced", "other"]
"""Whose figure it is: each has a colour of its own."""
FAR = 2.0
"""A limit beyond so many times the largest figure is named and not drawn: it would squeeze all."""
LETTER = 6.5
"""About the width of a letter."""
SHAPES = {"dense": "dot", "shipped": "diamond", "paced": "dot", "other": "ring"}

BINS = 90
TIME = "wall time of a call, ms"
CURVE_POINTS = 400
"""A curve of more calls is drawn through so many of them, evenly by rank."""
SHOWN_PART = 0.99
"""Of the calls of each engine: the slowest would make the others a single column."""
MOST_STARTS = 12
PANEL_ROWS = 24
"""The most layers in one drawing of channels."""


@dataclass(frozen=True)
class Point:
    """A network by its cost and its score."""

    name: str
    kind: Kind
    cost: Interval
    score: Interval


@dataclass(frozen=True)
class Times:
    """Wall times of one engine's calls, ms."""

    name: str
    kind: Kind
    calls: Float64
    """[calls] of all processes, in ascending order."""
    medians: tuple[float, ...]
    """Of each process."""


@dataclass(frozen=True)
class TimeLimit:
    """The budget's limit on a percentile of times, ms."""

    name: str
    percentile: int
    at: float


@dataclass(frozen=True)
class Row:
    """A named figure with its interval."""

    name: str
    kind: Kind
    figure: Interval
    note: str


def times_of(name: str, kind: Kind, runs: Sequence[Sequence[int]]) -> Times:
    """From the nanoseconds of each process's calls."""
    parts = [np.array(run, np.float64) / NS_PER_MS for run in runs if run]
    medians = tuple(float(np.median(part)) for part in parts)
    return Times(name, kind, np.sort(np.concatenate([*parts, np.empty(0)])), medians)


def pareto(
    title: str, cost: str, points: Sequence[Point], most_cost: float, least_score: float
) -> Drawing | None:
    """Scores over costs with their intervals; NaN where there is no limit."""
    shown = [p for p in points if drawable(p.cost.measured, p.score.measured)]
    if not shown:
        return None
    costs = _ends([p.cost for p in shown])
    scores = _ends([p.score for p in shown])
    details = [f"{p.name}: score {p.score.measured:.4f}, {p.cost.measured:.3f}" for p in shown]
    root = canvas(title, f"Score against {cost}. {'; '.join(details)}.", 310)
    low, high = min(scores), max(scores)
    near_cost = [most_cost] if most_cost <= FAR * max(costs) else []
    near_score = [least_score] if least_score >= low - FAR * (high - low) else []
    across = scale_over([0, *costs, *near_cost], LEFT, RIGHT, 0.08)
    up = scale_over([*scores, *near_score], 260, 34, 0.12)
    axis_across(root, across, 34, 260, cost)
    axis_up(root, up, "mean score on the validation samples")
    _allowed(root, across, up, most_cost, least_score)
    taken: list[tuple[float, float, float]] = []
    for point in shown:
        x, y = across(point.cost.measured), up(point.score.measured)
        bar_across(root, point.kind, across, point.cost, y)
        bar_up(root, point.kind, up, point.score, x)
        marker(root, SHAPES[point.kind], point.kind, x, y)
        side, anchor = (-8, "end") if x > (LEFT + RIGHT) / 2 else (8, "start")
        width = LETTER * len(point.name)
        begin = x + side - (width if anchor == "end" else 0)
        label = _free(begin, begin + width, y - 9, taken)
        if label > y:
            line(root, "leader", x, y, x + side, label - 4)
        words(root, f"direct halo {point.kind}", x + side, label, point.name, anchor)
    return Drawing(root)


def histogram(title: str, series: Sequence[Times], limits: Sequence[TimeLimit]) -> Drawing | None:
    """The share of calls by time, and below it the median of every process."""
    shown = [s for s in series if len(s.calls)]
    if not shown:
        return None
    bottom = 190.0
    rows = bottom + 20 * len(shown)
    across = _time_scale(shown, limits)
    root = canvas(title, f"Distribution of wall times. {_medians_words(shown)}.", rows + 46)
    edges = np.linspace(across.low, across.high, BINS + 1)
    parts = [100 * np.histogram(s.calls, edges)[0] / len(s.calls) for s in shown]
    up = scale_over([0, *(float(part.max()) for part in parts)], bottom, 34)
    axis_up(root, up, "calls, % in each column")
    axis_across(root, across, bottom, rows, TIME)
    line(root, "axis", LEFT, bottom, RIGHT, bottom)
    for s, part in zip(shown, parts, strict=True):
        steps = "".join(
            f"V{up(float(share)):.1f}H{across(float(edge)):.1f}"
            for share, edge in zip(part, edges[1:], strict=True)
        )
        add(root, "path", kind=f"area {s.kind}", d=f"M{LEFT:.1f} {bottom:.1f}{steps}V{bottom:.1f}z")
    for n, s in enumerate(shown):
        y = bottom + 20 * n
        words(root, f"direct {s.kind}", LEFT - 6, y + 15, s.name, "end")
        for median in s.medians:
            line(root, f"rug {s.kind}", across(median), y + 4, across(median), y + 17)
    slower = sum(int(np.sum(s.calls > across.high)) for s in shown)
    if slower:
        words(root, "tick", 4, rows + 32, f"{slower:,} slower calls are not drawn")
    _limit_lines(root, across, limits, [46 + 14.0 * n for n in range(len(limits))], rows)
    return Drawing(root)


def distribution(
    title: str, series: Sequence[Times], limits: Sequence[TimeLimit]
) -> Drawing | None:
    """The share of calls that took at most so long; a curve has to pass left of a limit's mark."""
    shown = [s for s in series if len(s.calls)]
    if not shown:
        return None
    bottom = 236.0
    across, up = _time_scale(shown, limits), Scale(0, 1, bottom, 34)
    root = canvas(
        title, f"Cumulative share of calls by wall time. {_medians_words(shown)}.", bottom + 40
    )
    axis_up(root, up, "share of calls that took at most so long")
    axis_across(root, across, 34, bottom, TIME)
    for s in shown:
        ranks = np.linspace(0, len(s.calls) - 1, min(len(s.calls), CURVE_POINTS)).astype(int)
        steps = "".join(
            f"H{across(float(s.calls[rank])):.1f}V{up((int(rank) + 1) / len(s.calls)):.1f}"
            for rank in ranks
        )
        add(root, "path", kind=f"curve {s.kind}", d=f"M{LEFT:.1f} {bottom:.1f}{steps}H{RIGHT:.1f}")
    heights = [up(limit.percentile / 100) + 4 for limit in limits]
    _limit_lines(root, across, limits, spread(heights, 14, bottom), bottom)
    for limit in limits:
        if limit.at <= across.high:
            marker(root, "diamond", "target", across(limit.at), up(limit.percentile / 100))
    for n, s in enumerate(reversed(shown)):
        words(
            root,
            f"direct halo {s.kind}",
            RIGHT - 4,
            bottom - 10 - 16 * n,
            _medians_words([s]),
            "end",
        )
    return Drawing(root)


def memory(
    title: str, dense: Sequence[StartRun], shipped: Sequence[StartRun], most_added: float
) -> Drawing | None:
    """Resident memory of every start: with the runtime alone, steady, and at its peak."""
    rows = [*_starts("dense", dense), *_starts("shipped", shipped)]
    if not rows:
        return None
    limits = [s.baseline_mib + most_added for _, kind, s in rows if kind == "shipped"]
    figures = [v for _, _, s in rows for v in (s.baseline_mib, s.steady_mib, s.peak_mib)]
    is_near = bool(limits) and max(limits) <= FAR * max(figures)
    across = scale_over([*figures, *(limits if is_near else [])], LEFT + 20, RIGHT)
    bottom = 38 + 20.0 * len(rows)
    peaks = ", ".join(f"{name} {s.baseline_mib:.4g} to {s.peak_mib:.4g}" for name, _, s in rows)
    details = f"Memory from the runtime alone to the peak, MiB: {peaks}."
    root = canvas(title, details, bottom + 40)
    axis_across(root, across, 30, bottom, "resident memory of the process, MiB")
    for x, shape, means in (
        (12, "ring", "runtime alone"),
        (124, "dot", "steady"),
        (194, "diamond", "peak"),
    ):
        marker(root, shape, "key", x, 13)
        words(root, "label", x + 10, 17, means)
    if is_near:
        line(root, "limit", 252, 5, 252, 21)
        words(root, "label", 260, 17, "limit of the peak")
    elif limits and drawable(*limits):
        words(root, "label", 244, 17, f"limit: {most_added:.4g} added →")
    for n, (name, kind, start) in enumerate(rows):
        y = 44 + 20.0 * n
        words(root, f"direct {kind}", LEFT + 8, y + 4, name, "end")
        line(root, f"bar {kind}", across(start.baseline_mib), y, across(start.peak_mib), y)
        marker(root, "ring", kind, across(start.baseline_mib), y)
        marker(root, "dot", kind, across(start.steady_mib), y)
        marker(root, "diamond", kind, across(start.peak_mib), y)
        limit = start.baseline_mib + most_added
        if kind == "shipped" and is_near:
            line(root, "limit", across(limit), y - 9, across(limit), y + 9)
    return Drawing(root)


def channels(title: str, layers: Sequence[tuple[str, int, int]]) -> list[Drawing]:
    """Channels before and after by layer: pairs of drawings alike in length, all on one scale."""
    scale = Scale(0, max([1, *(before for _, before, _ in layers)]), 166, 318)
    pairs = -(-len(layers) // (2 * PANEL_ROWS))
    rows = -(-len(layers) // (2 * pairs)) if len(layers) > PANEL_ROWS else PANEL_ROWS
    found = []
    for start in range(0, len(layers), rows):
        part = layers[start : start + rows]
        details = "; ".join(f"{name}: {before} to {after}" for name, before, after in part)
        root = canvas(title, f"Channels before and after pruning. {details}.", 26 + 20 * len(part))
        words(root, "label", scale.start, 14, "channels kept, of those before")
        for n, (name, before, after) in enumerate(part):
            y = 24 + 20.0 * n
            name_words(root, scale.start - 8, y + 12, name, 24)
            box(root, "before", scale.start, y + 2, scale(before) - scale.start, 13)
            box(root, "after", scale.start, y + 2, scale(after) - scale.start, 13)
            words(root, "tick", scale(before) + 6, y + 12, f"{after} of {before}")
        found.append(Drawing(root))
    return found


def rows_across(title: str, label: str, rows: Sequence[Row]) -> Drawing | None:
    """One figure a row with its interval, and a line at nought."""
    shown = [row for row in rows if drawable(row.figure.measured)]
    if not shown:
        return None
    across = scale_over([0, *_ends([row.figure for row in shown])], 168, RIGHT - 6)
    bottom = 8 + 32.0 * len(shown)
    details = "; ".join(f"{row.name}: {row.figure.measured:.4g} {row.note}" for row in shown)
    root = canvas(title, f"{label}. {details}.", bottom + 40)
    axis_across(root, across, 6, bottom, label)
    line(root, "axis", across(0), 6, across(0), bottom)
    for n, row in enumerate(shown):
        y = 24 + 32.0 * n
        name_words(root, 160, y - 2 if row.note else y + 4, row.name, 26)
        words(root, "note", 160, y + 11, row.note, "end")
        bar_across(root, row.kind, across, row.figure, y)
        marker(root, SHAPES[row.kind], row.kind, across(row.figure.measured), y)
    return Drawing(root)


def bullet(check: Check) -> Drawing | None:
    """A check in one line: its interval, beside the part of the axis that the limit allows."""
    if not drawable(check.measured, check.limit):
        return None
    details = (
        f"{check.measured:.4g} [{check.lower:.4g}, {check.upper:.4g}], limit {check.limit:.4g}"
    )
    root = canvas(check.name, details, 22, 150)
    figures = [check.measured, check.lower, check.upper, 1.2 * check.limit]
    across = scale_over([0, *figures], 3, 147, 0.03)
    limit = across(check.limit)
    allowed = (limit, across.end) if limit_of(check.name).is_minimum else (across.start, limit)
    box(root, "track", across.start, 7, across.end - across.start, 8)
    box(root, "allowed", allowed[0], 7, allowed[1] - allowed[0], 8)
    found = Interval(check.measured, check.lower, check.upper)
    bar_across(root, f"thick {check.status}", across, found, 11)
    marker(root, "dot", check.status, across(check.measured), 11)
    line(root, "limit", limit, 2, limit, 20)
    return Drawing(root)


def _allowed(root: Element, across: Scale, up: Scale, most_cost: float, least_score: float) -> None:
    """The part of a plot within both limits; an arrow in place of a line for one far off."""
    has_cost, has_score = drawable(most_cost), drawable(least_score)
    right = across(most_cost) if has_cost else RIGHT
    bottom = up(least_score) if has_score else up.start
    if has_cost or has_score:
        box(root, "allowed", LEFT, up.end, right - LEFT, bottom - up.end)
    if has_cost:
        text = f"limit {most_cost:.4g}"
        is_far = most_cost > across.high
        if not is_far:
            line(root, "limit", right, up.end, right, up.start)
        has_room = right + 5 + LETTER * len(text) < RIGHT
        x, anchor = (right + 5, "start") if has_room else (right - 5, "end")
        text += " →" if is_far else ""
        words(root, "limit-text halo", x, up.end + 12, text, anchor)
    if has_score:
        text = f"least {least_score:.4f}"
        if least_score < up.low:
            words(root, "limit-text halo", LEFT + 5, bottom - 6, f"{text} ↓")
        else:
            line(root, "limit", LEFT, bottom, RIGHT, bottom)
            words(root, "limit-text halo", LEFT + 5, bottom + 14, text)


def _free(
    begin: float, end: float, height: float, taken: list[tuple[float, float, float]]
) -> float:
    """The next height from `height` down where a label meets none of `taken`, which it joins."""
    while any(begin < e and b < end and abs(height - h) < 14 for b, e, h in taken):
        height += 14
    taken.append((begin, end, height))
    return height


def _ends(found: Sequence[Interval]) -> list[float]:
    """The figures and the bounds that an axis can hold."""
    ends = [value for one in found for value in (one.measured, one.lower, one.upper)]
    return [value for value in ends if drawable(value)]


def _starts(kind: Kind, starts: Sequence[StartRun]) -> list[tuple[str, Kind, StartRun]]:
    """The first starts that can be drawn, named and numbered."""
    whole = [s for s in starts if drawable(s.baseline_mib, s.steady_mib, s.peak_mib)]
    return [(f"{kind} {n}", kind, start) for n, start in enumerate(whole[:MOST_STARTS], 1)]


def _time_scale(series: Sequence[Times], limits: Sequence[TimeLimit]) -> Scale:
    """From the fastest call to nearly the slowest, and to the limits near it."""
    low = min(float(s.calls[0]) for s in series)
    high = max(float(np.quantile(s.calls, SHOWN_PART)) for s in series)
    near = [limit.at for limit in limits if limit.at <= FAR * high]
    return scale_over([low, high, *near], LEFT, RIGHT)


def _limit_lines(
    root: Element,
    across: Scale,
    limits: Sequence[TimeLimit],
    heights: Sequence[float],
    bottom: float,
) -> None:
    """The limits, each with its name at its height; an arrow in place of a line for one far off."""
    for limit in limits:
        if limit.at <= across.high:
            line(root, "limit", across(limit.at), 34, across(limit.at), bottom)
    for limit, y in zip(limits, heights, strict=True):
        arrow = " →" if limit.at > across.high else ""
        text = f"{limit.name} ≤ {limit.at:.4g}{arrow}"
        x = across(limit.at)
        end = x + 8 + LETTER * len(text)
        taken = end > RIGHT or any(x < across(other.at) < end for other in limits)
        side, anchor = (-8, "end") if taken else (8, "start")
        words(root, "limit-text halo", x + side, y, text, anchor)


def _medians_words(series: Sequence[Times]) -> str:
    """The percentiles in words."""
    parts = []
    for s in series:
        p50, p95, p99 = np.percentile(s.calls, (50, 95, 99))
        parts.append(f"{s.name}: p50 {p50:.3g}, p95 {p95:.3g}, p99 {p99:.3g} ms")
    return "; ".join(parts)
