"""Bounds: against closed forms, an independent solution, scipy, and simulated truth."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from profiles.statistics import (
    CONFIDENCE,
    Interval,
    Z,
    exact,
    growth_bounds,
    mean_bounds,
    median_bounds,
    paired_drop,
    provable_drop,
    quantile_bounds,
    samples_needed,
    tango_upper,
)

FIGURES = st.lists(st.floats(0.01, 1e6), min_size=2, max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """Samples lost, won, and all of them."""
    count = draw(st.integers(1, 500))
    lost = draw(st.integers(0, count))
    return lost, draw(st.integers(0, count - lost)), count


def scores(lost: int, won: int, count: int) -> tuple[list[float], list[float]]:
    same = [1.0] * (count - lost - won)
    return [1.0] * lost + [0.0] * won + same, [0.0] * lost + [1.0] * won + same


def score_statistic(lost: int, won: int, count: int, delta: float) -> float:
    """Tango's z, its nuisance parameter found by maximising the likelihood itself."""

    def minus_log_likelihood(p_won: float) -> float:
        parts = ((lost, p_won + delta), (won, p_won), (count - lost - won, 1 - 2 * p_won - delta))
        return -sum(n * math.log(max(p, 1e-300)) for n, p in parts if n)

    found = scipy.optimize.minimize_scalar(
        minus_log_likelihood,
        bounds=(max(0.0, -delta), (1 - delta) / 2),
        method="bounded",
        options={"xatol": 1e-12},
    )
    variance = count * (2 * float(found.x) + delta * (1 - delta))
    return (lost - won - count * delta) / math.sqrt(variance)


def test_z_is_the_one_sided_95_percent_quantile() -> None:
    assert CONFIDENCE == 0.95
    assert pytest.approx(1.6448536269514722) == Z


def test_a_counted_figure_is_its_own_bounds() -> None:
    assert exact(3.5) == Interval(3.5, 3.5, 3.5)


@pytest.mark.parametrize("count", [1, 10, 59, 1000, 50_000])
def test_with_no_sample_changed_the_bound_is_the_closed_form(count: int) -> None:
    assert tango_upper(0, 0, count) == pytest.approx(Z**2 / (count + Z**2), abs=1e-12)


@pytest.mark.parametrize("count", [1, 7, 400])
def test_with_every_sample_lost_the_bound_is_one(count: int) -> None:
    assert tango_upper(count, 0, count) == pytest.approx(1)


@pytest.mark.parametrize(
    ("lost", "won", "count"), [(1, 1, 44), (9, 2, 100), (5, 5, 200), (2, 9, 100), (30, 10, 60)]
)
def test_the_bound_solves_tangos_equation_solved_another_way(
    lost: int, won: int, count: int
) -> None:
    upper = tango_upper(lost, won, count)
    assert score_statistic(lost, won, count, upper) == pytest.approx(-Z, abs=1e-4)
    lower = -tango_upper(won, lost, count)
    assert score_statistic(won, lost, count, -lower) == pytest.approx(-Z, abs=1e-4)


@settings(deadline=None)
@given(tables())
def test_the_bounds_bracket_the_estimate_and_swap_with_the_networks(
    table: tuple[int, int, int],
) -> None:
    lost, won, count = table
    dense, shipped = scores(lost, won, count)
    there, back = paired_drop(dense, shipped), paired_drop(shipped, dense)
    assert there.measured == pytest.approx((lost - won) / count)
    assert -1 <= there.lower <= there.measured <= there.upper <= 1
    assert (back.lower, back.measured, back.upper) == pytest.approx(
        (-there.upper, -there.measured, -there.lower)
    )


def test_losing_one_more_sample_raises_the_bound_and_winning_one_lowers_it() -> None:
    reached = set()

    @settings(deadline=None)
    @example((9, 2, 100))
    @given(tables())
    def holds(table: tuple[int, int, int]) -> None:
        lost, won, count = table
        assume(lost + won < count)
        upper = tango_upper(lost, won, count)
        lost_more, won_more = tango_upper(lost + 1, won, count), tango_upper(lost, won + 1, count)
        assert lost_more >= upper >= won_more
        reached.add((lost_more > upper, upper > won_more))

    holds()
    assert (True, True) in reached


@pytest.mark.parametrize(
    ("p_lost", "p_won", "promise"),
    [
        (0.025, 0.025, 0.945),
        (0.03, 0.02, 0.945),
        (0.05, 0.0, 0.945),
        (0.02, 0.01, 0.945),
        (0.2, 0.1, 0.945),
        (0.01, 0.04, 0.93),  # more is won than lost: no limit lies there, it may be less exact
    ],
)
def test_the_bound_holds_the_truth_as_often_as_it_promises(
    p_lost: float, p_won: float, promise: float
) -> None:
    count, truth = 200, p_lost - p_won
    most = count // 2  # more changed samples than that are next to impossible
    outcomes = [(lost, won) for lost in range(most) for won in range(most - lost)]
    chances = scipy.stats.multinomial.pmf(
        [(lost, won, count - lost - won) for lost, won in outcomes],
        count,
        [p_lost, p_won, 1 - p_lost - p_won],
    )
    likely = [(chance, *outcome) for chance, outcome in zip(chances, outcomes, strict=True)]
    covered = sum(
        chance
        for chance, lost, won in likely
        if chance > 1e-9 and tango_upper(lost, won, count) >= truth
    )
    assert covered >= promise


def test_simulated_accuracies_are_covered_too() -> None:
    bound = cache(tango_upper)
    draws = np.random.default_rng(0).multinomial(200, [0.03, 0.02, 0.95], size=2000)
    held = sum(bound(int(lost), int(won), 200) >= 0.01 for lost, won, _ in draws)
    assert held / 2000 >= 0.93


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_bounds_of_a_mean_are_scipys(values: list[float]) -> None:
    spread = float(scipy.stats.sem(values))
    assume(spread > 0)
    found = mean_bounds(values)
    assert found.measured == pytest.approx(np.mean(values))
    want = scipy.stats.t.interval(0.9, len(values) - 1, loc=np.mean(values), scale=spread)
    assert (found.lower, found.upper) == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_the_mean_of_equal_values_is_its_own_bounds() -> None:
    assert mean_bounds([3.0] * 4) == Interval(3.0, 3.0, 3.0)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_bound_nothing(values: list[float]) -> None:
    found = mean_bounds(values)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert math.isnan(found.measured) if not values else found.measured == values[0]


@pytest.mark.parametrize(
    ("count", "rank"), [(5, 1), (7, 1), (8, 2), (10, 2), (11, 3), (15, 4), (20, 6)]
)
def test_the_bounds_of_a_median_are_the_sign_tests_order_statistics(count: int, rank: int) -> None:
    found = median_bounds(list(range(1, count + 1)))
    assert found.measured == (count + 1) / 2
    assert (found.lower, found.upper) == (rank, count + 1 - rank)
    assert (
        scipy.stats.binom.cdf(rank - 1, count, 0.5)
        <= 0.05
        < scipy.stats.binom.cdf(rank, count, 0.5)
    )


@pytest.mark.parametrize(
    ("count", "quantile", "rank"),
    [(59, 0.95, 59), (1000, 0.95, 962), (299, 0.99, 299), (1000, 0.99, 996)],
)
def test_the_bound_of_a_percentile_is_the_documented_order_statistic(
    count: int, quantile: float, rank: int
) -> None:
    assert quantile_bounds(list(range(1, count + 1)), quantile).upper == rank


@pytest.mark.parametrize(("count", "quantile"), [(4, 0.5), (58, 0.95), (298, 0.99)])
def test_fewer_values_than_a_quantile_needs_leave_it_unbounded_above(
    count: int, quantile: float
) -> None:
    assert quantile_bounds([1.0] * count, quantile).upper == math.inf


def test_a_figure_made_worse_never_makes_its_bounds_better() -> None:
    reached = set()

    @settings(deadline=None)
    @example([1.0] * 5, 0, 1.0, 0.5)
    @example([1.0, 2.0, 2.0, 2.0, 2.0], 0, 1.0, 0.5)
    @given(FIGURES, st.integers(0, 11), st.floats(0, 1e6), st.sampled_from([0.5, 0.95]))
    def holds(values: list[float], place: int, more: float, quantile: float) -> None:
        worse = [value + more * (i == place) for i, value in enumerate(values)]
        before, after = quantile_bounds(values, quantile), quantile_bounds(worse, quantile)
        assert after.upper >= before.upper
        assert after.lower >= before.lower
        reached.add((after.upper > before.upper, after.lower > before.lower))

    holds()
    assert reached >= {(True, False), (False, True)}


@settings(deadline=None)
@given(FIGURES)
def test_the_bounds_bracket_the_median_and_turn_over_with_it(values: list[float]) -> None:
    there, back = median_bounds(values), median_bounds([-value for value in values])
    assert there.lower <= there.measured <= there.upper
    assert (back.lower, back.upper) == (-there.upper, -there.lower)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf], [-math.inf, 1.0]])
def test_values_that_are_missing_or_not_finite_leave_no_quantile(values: list[float]) -> None:
    found = median_bounds(values)
    assert math.isnan(found.measured)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


@pytest.mark.parametrize("processes", [5, 8])
def test_an_engine_over_its_budget_ships_as_rarely_as_promised(processes: int) -> None:
    # Between-process noise of 2 %, the gate's rule: upper <= limit.
    noise = np.random.default_rng(0).normal(0, 0.02, (4000, processes))
    shipped = {
        truth: sum(median_bounds(list(row)).upper <= 1 for row in truth * np.exp(noise)) / 4000
        for truth in (1.03, 1.01, 1.0, 0.95)
    }
    assert shipped[1.03] <= 0.001
    assert shipped[1.01] <= 0.01
    assert shipped[1.0] <= 0.06
    assert shipped[0.95] >= (0.97 if processes == 8 else 0.95)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda p: not {*p} <= {0.0, 1.0}),
        min_size=1,
        max_size=50,
    )
)
def test_scores_that_are_not_0_or_1_get_t_bounds_never_narrower_than_for_no_change(
    pairs: list[tuple[float, float]],
) -> None:
    dense, shipped = [a for a, _ in pairs], [b for _, b in pairs]
    found = paired_drop(dense, shipped)
    least = Z**2 / (len(pairs) + Z**2)
    student = mean_bounds([a - b for a, b in pairs])
    assert found.measured == pytest.approx(float(np.mean(dense)) - float(np.mean(shipped)))
    assert found.upper == pytest.approx(max(student.upper, found.measured + least))
    assert found.lower == pytest.approx(min(student.lower, found.measured - least))


def test_equal_scores_are_not_taken_for_certainty() -> None:
    found = paired_drop([0.5] * 100, [0.5] * 100)
    assert found.measured == 0
    assert found.upper == -found.lower == pytest.approx(Z**2 / (100 + Z**2))


@pytest.mark.parametrize(
    ("dense", "shipped"),
    [
        ([], []),
        ([1.0], []),
        ([1.0, 1.0], [1.0]),
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, math.nan]),
        ([math.inf, 1.0], [math.inf, 1.0]),
        ([1.0, 1.0], [-math.inf, 1.0]),
    ],
)
def test_scores_that_are_missing_or_not_finite_leave_no_figure(
    dense: Sequence[float], shipped: Sequence[float]
) -> None:
    found = paired_drop(dense, shipped)
    assert math.isnan(found.measured)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


@pytest.mark.parametrize(
    ("drop", "least", "most"), [(0.05, 70, 90), (0.01, 1300, 1500), (0.005, 5200, 5600)]
)
def test_the_samples_that_a_margin_needs_are_those_with_which_it_can_be_proven(
    drop: float, least: int, most: int
) -> None:
    needed = samples_needed(drop)
    assert needed is not None
    assert least <= needed <= most
    assert provable_drop(needed) <= drop < provable_drop(int(0.9 * needed))


def test_no_number_of_samples_proves_that_nothing_at_all_is_lost() -> None:
    assert samples_needed(0) is None


@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 5), (8, 8), (4, 7), (20, 20)])
def test_growth_is_bounded_where_mann_and_whitneys_test_no_longer_rejects(
    first: int, second: int
) -> None:
    generator = np.random.default_rng(first)
    after, before = generator.lognormal(size=first), generator.lognormal(size=second)
    found = growth_bounds(after, before)

    def rejects(ratio: float, tail: Literal["less", "greater"]) -> bool:
        compared = scipy.stats.mannwhitneyu(after, before * ratio, alternative=tail, method="exact")
        return bool(compared.pvalue <= 0.05)

    assert rejects(found.lower / 1.001, "greater")
    assert not rejects(found.lower * 1.001, "greater")
    assert rejects(found.upper * 1.001, "less")
    assert not rejects(found.upper / 1.001, "less")


def test_the_growth_of_anything_beside_itself_is_one() -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    found = growth_bounds(values, values)
    assert found.measured == 1
    assert found.lower == pytest.approx(1 / found.upper)


@pytest.mark.parametrize("wrong", [[], [0.0], [-1.0], [math.nan], [math.inf]])
def test_growth_of_values_that_are_none_is_unknown(wrong: list[float]) -> None:
    whole = np.array([1.0, 2.0, 3.0])
    for pair in ((np.array(wrong), whole), (whole, np.array(wrong))):
        assert math.isnan(growth_bounds(*pair).measured)


def test_very_many_values_are_compared_at_once_and_no_less_strictly() -> None:
    generator = np.random.default_rng(0)
    after, before = (generator.lognormal(sigma=0.1, size=5000) for _ in range(2))
    found = growth_bounds(after, before)
    assert 0.9 < found.lower < 1 < found.upper < 1.1


def test_too_few_values_leave_growth_unbounded() -> None:
    found = growth_bounds(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert (found.lower, found.upper) == (0, math.inf)
