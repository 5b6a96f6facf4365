"""The drawings of one target, each with what to know to read it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.arrays import Float64
from pipeline.release.bundle import Judged
from pipeline.report.charts import (
    CURVE_POINTS,
    MOST_STARTS,
    SHOWN_PART,
    Point,
    Row,
    TimeLimit,
    distribution,
    histogram,
    memory,
    pareto,
    rows_across,
    times_of,
)
from pipeline.report.svg import Drawing
from pipeline.store.reports import Baseline, PruneReport
from profiles.limits import LIMITS
from profiles.measurement import Measurement, time_ratio
from profiles.statistics import Interval, Z, exact, mean_bounds, paired_drop

MOST_CLASSES = 10


@dataclass(frozen=True)
class Chart:
    """A drawing and what to know to read it."""

    title: str
    drawing: Drawing | None
    """None where nothing was measured that could be drawn."""
    caption: str


def charts_of(
    judged: Judged,
    pruned: PruneReport,
    baselines: Sequence[Baseline],
) -> tuple[Chart, ...]:
    """Costs, times, memory, and classes where the samples have any."""
    by_time, by_macs = _costs(judged, pruned, baselines)
    by_class = [_by_class(judged.measurement)] if judged.measurement.labels else []
    return (by_time, *_latency(judged), by_macs, _memory(judged), *by_class)


def points_of(judged: Judged, name: str) -> tuple[Point, Point]:
    """The dense engine and the one that ships by time, each as a ratio to dense."""
    measurement = judged.measurement
    runs, clock = measurement.latency, measurement.clock
    same = time_ratio([run.control for run in runs], [run.dense for run in runs], clock)
    ratio = time_ratio([run.shipped for run in runs], [run.dense for run in runs], clock)
    return (
        Point("dense", "dense", same, score_bounds(measurement.dense.scores)),
        Point(name, "shipped", ratio, score_bounds(measurement.shipped.scores)),
    )


def score_bounds(scores: Sequence[float]) -> Interval:
    """The mean with one-sided 95 % bounds.

    Of scores of 0 and 1 by Wilson (Journal of the American Statistical Association 22, 1927),
    of others Student's.
    """
    values, count = np.asarray(scores, float), len(scores)
    if not count or not np.isfinite(values).all():
        return exact(math.nan)
    mean = float(values.mean())
    if not np.isin(values, (0.0, 1.0)).all():
        return mean_bounds(list(scores))
    middle = mean + Z**2 / (2 * count)
    half = Z * math.sqrt(mean * (1 - mean) / count + Z**2 / (4 * count**2))
    whole = 1 + Z**2 / count
    return Interval(mean, (middle - half) / whole, (middle + half) / whole)


def paired_scores(measurement: Measurement) -> Float64 | None:
    """[2, samples]: dense and shipped; None where they are not of the same samples."""
    dense, shipped = measurement.dense, measurement.shipped
    same = dense.samples_sha256 == shipped.samples_sha256
    if not same or len(dense.scores) != len(shipped.scores) or not dense.scores:
        return None
    pairs = np.array([dense.scores, shipped.scores], np.float64)
    return pairs if np.isfinite(pairs).all() else None


def _costs(
    judged: Judged, pruned: PruneReport, baselines: Sequence[Baseline]
) -> tuple[Chart, Chart]:
    measurement, limits = judged.measurement, judged.terms.budget.limits()
    dense, shipped = points_of(judged, "shipped")
    least = dense.score.measured - limits.get("top1_drop", math.nan)
    clock = "CPU time" if measurement.clock == "cpu" else "wall time"
    by_time = pareto(
        "Accuracy against time",
        f"{clock} of a call, shipped / dense",
        [dense, shipped],
        limits.get("latency_p50_ratio", math.nan),
        least,
    )
    ratio = LIMITS["macs_ratio"].estimate(measurement)
    others = [
        Point(b.name, "other", exact(pruned.macs_ratio), exact(b.score))
        for b in baselines
        if b.score is not None
    ]
    by_macs = pareto(
        "Accuracy against MACs",
        "MACs, shipped / dense (1 MAC = 2 FLOPs)",
        [
            Point("dense", "dense", exact(1.0), dense.score),
            Point("shipped", "shipped", ratio, shipped.score),
            *others,
        ],
        limits.get("macs_ratio", math.nan),
        least,
    )
    bars = (
        "Bars are the one-sided 95 % bounds of each engine alone; the budget judges the change "
        "sample by sample, which is known better. The tinted area is what the budget allows."
    )
    return (
        Chart("Accuracy against time", by_time, bars),
        Chart("Accuracy against MACs", by_macs, bars),
    )


def _latency(judged: Judged) -> list[Chart]:
    runs, limits = judged.measurement.latency, judged.terms.budget.limits()
    series = [
        times_of("dense", "dense", [run.dense.wall_ns for run in runs]),
        times_of("shipped", "shipped", [run.shipped.wall_ns for run in runs]),
        times_of("at pace", "paced", [run.frames_ns for run in runs]),
    ]
    marks = {name: LIMITS[name].time_mark for name in limits}
    lines = [
        TimeLimit(mark.label, mark.percentile, limits[name]) for name, mark in marks.items() if mark
    ]
    calls = sum(len(s.calls) for s in series)
    slowest = max((float(s.calls[-1]) for s in series if len(s.calls)), default=0.0)
    paced = " At pace: the engine that ships, called at the frame rate."
    paced = paced if len(series[2].calls) else ""
    counted = (
        f"{calls:,} calls in {len(runs)} processes, batches of {judged.measurement.batch}, all "
        f"counted. The axis ends near the {100 * SHOWN_PART:.0f}th percentile; the slowest call "
        f"took {slowest:.4g} ms."
    )
    return [
        Chart(
            "Time of a call",
            histogram("Time of a call", series, lines),
            f"{counted} Ticks below: the median of each process.{paced}",
        ),
        Chart(
            "Share of calls within a time",
            distribution("Share of calls within a time", series, lines),
            f"Drawn through at most {CURVE_POINTS} of each engine's calls, evenly by rank. "
            f"A curve must pass left of the mark on a limit.{paced}",
        ),
    ]


def _memory(judged: Judged) -> Chart:
    dense, shipped = judged.measurement.dense.starts, judged.measurement.shipped.starts
    limit = judged.terms.budget.limits().get("peak_memory_mib", math.nan)
    method = f" ({shipped[0].method})" if shipped else ""
    return Chart(
        "Memory of fresh processes",
        memory("Memory of fresh processes", dense, shipped, limit),
        f"Each row is one process{method}; {len(dense)} and {len(shipped)} were measured, at most "
        f"{MOST_STARTS} of each are drawn. The budget is on what is added to the runtime alone.",
    )


def _by_class(measurement: Measurement) -> Chart:
    """The classes that lose most."""
    title, pairs = "Change of accuracy by class", paired_scores(measurement)
    labels = np.asarray(measurement.labels)
    if pairs is None or len(labels) != pairs.shape[1]:
        return Chart(title, None, "The labels are not of the samples that were scored.")
    found = np.unique(labels)
    changes = [
        float(np.mean(pairs[1, labels == label] - pairs[0, labels == label])) for label in found
    ]
    worst = found[np.argsort(changes, kind="stable")[:MOST_CLASSES]]
    rows = []
    for label in worst:
        before, after = pairs[:, labels == label]
        drop = paired_drop(list(before), list(after))
        change = Interval(-100 * drop.measured, -100 * drop.upper, -100 * drop.lower)
        note = f"{before.mean():.3f} → {after.mean():.3f}, {len(before)} samples"
        rows.append(Row(f"class {label}", "shipped", change, note))
    return Chart(
        title,
        rows_across(title, "change of the mean score, points of 100", rows),
        f"The {len(rows)} of {len(found)} classes that lose most, or gain least, with one-sided "
        "95 % bounds of each class alone.",
    )
