"""Drawings: every figure lands inside its plot, in order, and odd ones never break it."""

import itertools
import math
import re

import pytest
from html_pages import Page
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.report.charts import (
    CURVE_POINTS,
    Point,
    Row,
    TimeLimit,
    bullet,
    channels,
    distribution,
    histogram,
    memory,
    pareto,
    rows_across,
    times_of,
)
from pipeline.report.svg import LEFT, RIGHT, WIDTH, Drawing, scale_over, spread
from profiles.gate import Check
from profiles.measurement import StartRun
from profiles.statistics import Interval, exact

PLACES = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "d"}
ACROSS = {"x1", "x2", "cx"}
ANY = st.floats(allow_nan=True, allow_infinity=True)
INTERVALS = st.builds(Interval, ANY, ANY, ANY)


def drawn(drawing: Drawing | None) -> Page:
    assert drawing is not None
    return Page(drawing.__html__())


def numbers(found: Page, names: set[str]) -> list[float]:
    """Every number of the attributes."""
    texts = [v for node in found.nodes for name, v in node.attributes.items() if name in names]
    return [float(number) for text in texts for number in re.findall(r"[-+.\w]+", text.lstrip("M"))]


def assert_whole(drawing: Drawing | None) -> None:
    """Coordinates are numbers, and those from left to right are inside."""
    if drawing is not None:
        source = drawing.__html__()
        assert not re.search(r'"[^"<>]*\b(nan|inf)\b[^"<>]*"', source)
        places = numbers(Page(source), ACROSS)
        assert all(math.isfinite(place) and -1 <= place <= WIDTH + 1 for place in places)


def test_a_pareto_plot_holds_any_figures() -> None:
    reached = set()

    @settings(deadline=None)
    @example([], [], 1, 0.5)
    @example([exact(1)], [exact(0.9)], 1, 0.5)
    @given(st.lists(INTERVALS, max_size=3), st.lists(INTERVALS, max_size=3), ANY, ANY)
    def holds(costs: list[Interval], scores: list[Interval], most: float, least: float) -> None:
        points = [Point("n", "other", c, s) for c, s in zip(costs, scores, strict=False)]
        drawing = pareto("t", "cost", points, most, least)
        assert_whole(drawing)
        reached.add(drawing is None)

    holds()
    assert reached == {True, False}


def test_rows_hold_any_figures() -> None:
    reached = set()

    @settings(deadline=None)
    @example([])
    @example([exact(1)])
    @given(st.lists(INTERVALS, max_size=4))
    def holds(found: list[Interval]) -> None:
        drawing = rows_across("t", "label", [Row("name", "shipped", one, "note") for one in found])
        assert_whole(drawing)
        reached.add(drawing is None)

    holds()
    assert reached == {True, False}


def test_a_check_is_drawn_with_any_figures() -> None:
    reached = set()

    @settings(deadline=None)
    @example(math.nan, math.nan, math.nan, 1, "macs")
    @example(2, 1, 3, 2, "throughput_per_s")
    @given(ANY, ANY, ANY, ANY, st.sampled_from(["macs", "throughput_per_s"]))
    def holds(measured: float, lower: float, upper: float, limit: float, name: str) -> None:
        drawing = bullet(Check(name, measured, lower, upper, limit, "fail", ""))
        assert_whole(drawing)
        reached.add(drawing is None)

    holds()
    assert reached == {True, False}


def test_memory_holds_any_figures() -> None:
    reached = set()

    @settings(deadline=None)
    @example([], 64)
    @example([(40, 60, 55)] * 3, 64)
    @given(st.lists(st.tuples(ANY, ANY, ANY), max_size=3), ANY)
    def holds(found: list[tuple[float, float, float]], most: float) -> None:
        starts = [
            StartRun(load_ms=1, first_ms=1, baseline_mib=a, peak_mib=b, steady_mib=c, method="")
            for a, b, c in found
        ]
        drawing = memory("t", starts, starts, most)
        assert_whole(drawing)
        reached.add(drawing is None)

    holds()
    assert reached == {True, False}


def test_times_of_any_length_are_drawn() -> None:
    reached = set()

    @settings(deadline=None)
    @example([], 1)
    @example([[1_000_000, 2_000_000, 3_000_000]] * 2, 1)
    @given(
        st.lists(st.lists(st.integers(0, (1 << 63) - 1), max_size=20), max_size=3),
        st.floats(min_value=1e-300, allow_infinity=False),
    )
    def holds(runs: list[list[int]], limit: float) -> None:
        series = [times_of("dense", "dense", runs), times_of("shipped", "shipped", [])]
        limits = [TimeLimit("p50", 50, limit), TimeLimit("p95", 95, limit)]
        for draw in (histogram, distribution):
            drawing = draw("t", series, limits)
            assert_whole(drawing)
            reached.add((draw.__name__, drawing is None))

    holds()
    assert reached == {(name, none) for name in ("histogram", "distribution") for none in (0, 1)}


def test_a_scale_has_a_few_ticks_inside_it() -> None:
    reached = set()

    @example([0.0, 10.0])
    @given(st.lists(ANY, max_size=5))
    def holds(values: list[float]) -> None:
        scale = scale_over(values, LEFT, RIGHT)
        ticks = scale.ticks()
        assert len(ticks) <= 12
        slack = 1e-9 * max(abs(scale.low), abs(scale.high))
        assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
        reached.add(len(ticks) > 2)

    holds()
    assert True in reached


@pytest.mark.parametrize("end", [100.0, 60.0])
def test_labels_are_spread_and_keep_their_order(end: float) -> None:
    found = spread([50.0, 10.0, 51.0, 49.0], 12, end)
    assert found[1] < found[3] < found[0] < found[2] <= end
    ordered = sorted(found)
    assert all(b - a >= 12 for a, b in itertools.pairwise(ordered))


def test_a_histogram_counts_every_call_but_those_it_names() -> None:
    fast = [1_000_000 + 1_000 * n for n in range(990)]
    found = drawn(histogram("t", [times_of("dense", "dense", [fast + [9_000_000] * 10])], []))
    assert "10 slower calls are not drawn" in {node.text for node in found.all("text")}


def test_each_process_has_a_tick_at_its_median() -> None:
    series = times_of("shipped", "shipped", [[1, 2, 900], [2, 4, 6], [8, 8, 8]])
    assert series.medians == (2e-6, 4e-6, 8e-6)
    assert len(drawn(histogram("t", [series], [])).all("line", "rug")) == 3


def test_a_curve_of_many_calls_is_drawn_through_some_of_them() -> None:
    series = times_of("dense", "dense", [list(range(1, 5001))])
    (curve,) = drawn(distribution("t", [series], [])).all("path", "curve")
    assert curve.attributes["d"].count("H") == CURVE_POINTS + 1
    few = times_of("dense", "dense", [[1, 2, 3]])
    (curve,) = drawn(distribution("t", [few], [])).all("path", "curve")
    assert curve.attributes["d"].count("H") == 4


def test_a_limit_far_off_is_named_and_squeezes_nothing() -> None:
    point = Point("shipped", "shipped", exact(0.5), Interval(0.9, 0.89, 0.91))
    near = drawn(pareto("t", "cost", [point], 0.6, 0.88))
    far = drawn(pareto("t", "cost", [point], 60, 0.01))
    assert len(near.all("line", "limit")) == 2
    assert not far.all("line", "limit")
    assert {n.text for n in far.all("text", "limit-text")} == {"limit 60 →", "least 0.0100 ↓"}


def test_labels_of_points_in_one_place_do_not_cover_one_another() -> None:
    points = [Point(f"n{k}", "other", exact(0.5), exact(0.9)) for k in range(5)]
    labels = drawn(pareto("t", "cost", points, math.nan, math.nan)).all("text", "direct")
    heights = sorted(float(label.attributes["y"]) for label in labels)
    assert all(b - a >= 14 for a, b in itertools.pairwise(heights))


def test_an_engine_better_than_its_limit_is_on_the_tinted_side() -> None:
    for name, measured in (("macs", 90.0), ("throughput_per_s", 110.0)):
        found = drawn(bullet(Check(name, measured, measured, measured, 100.0, "pass", "")))
        tint, mark = found.one("rect", "allowed").attributes, found.one("circle").attributes
        start, width = float(tint["x"]), float(tint["width"])
        assert start < float(mark["cx"]) < start + width


@pytest.mark.parametrize(
    ("layers", "lengths"), [(0, []), (24, [24]), (25, [13, 12]), (97, [17] * 5 + [12])]
)
def test_long_lists_of_layers_are_cut_into_even_drawings(layers: int, lengths: list[int]) -> None:
    found = channels("t", [(f"layer {n}", 8, 4) for n in range(layers)])
    assert [len(drawn(one).all("rect", "after")) for one in found] == lengths


def test_a_long_name_keeps_its_end_and_tells_the_whole() -> None:
    name = "backbone.stages.3.blocks.11.pointwise_expansion.conv"
    label = drawn(channels("t", [(name, 8, 4)])[0]).one("text", "name")
    assert label.text.startswith("…")
    assert label.text.endswith(name)
    assert len(label.texts[0]) == 24
