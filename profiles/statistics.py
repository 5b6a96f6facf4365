"""Bounds that turn raw samples into evidence: each is one-sided at 95 %."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, betaincinv, ndtri, stdtrit

CONFIDENCE = 0.95
Z = float(ndtri(CONFIDENCE))
MOST_SAMPLES = 10**9
MOST_COMPARED = 64
"""Values of either side whose orders are counted, which takes the fourth power of it."""


@dataclass(frozen=True)
class Interval:
    """A figure with a one-sided bound on either side, in the figure's own unit."""

    measured: float
    lower: float
    upper: float


def exact(value: float) -> Interval:
    """A figure that is counted, not sampled."""
    return Interval(value, value, value)


def mean_bounds(values: Sequence[float]) -> Interval:
    """Student's t bounds on the mean; infinitely wide for fewer than two values."""
    count = len(values)
    if count < 2:
        return Interval(values[0] if values else math.nan, -math.inf, math.inf)
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, CONFIDENCE)) * spread
    return Interval(mean, mean - half, mean + half)


def median_bounds(values: Sequence[float]) -> Interval:
    """Bounds on the median of what a process gives, by order statistics of one figure a process.

    Processes differ more than the calls inside one, so the process is the unit: pooling calls
    would promise a precision the next process does not keep. For any distribution each bound is
    wrong at most 5 % of the time (the sign test's interval; Conover, Practical Nonparametric
    Statistics, 3.2), and making a figure worse never makes its bound better, as it can with
    Student's t. Fewer than 5 processes bound nothing.
    """
    return quantile_bounds(values, 0.5)


def quantile_bounds(values: Sequence[float], quantile: float) -> Interval:
    """Bounds on a quantile by order statistics, for any distribution of independent values.

    With n values the k-th largest is an upper bound as long as a binomial (n, 1 - quantile) has
    fewer than k at most 5 % of the time: there is one from 5, 59 and 299 values on for the median,
    p95 and p99.
    """
    count = len(values)
    if count == 0 or not all(math.isfinite(value) for value in values):
        return Interval(math.nan, math.nan, math.nan)
    ordered = np.sort(np.asarray(values, float))
    above = _misses(count, 1 - quantile)
    below = _misses(count, quantile)
    upper = float(ordered[count - above]) if above else math.inf
    lower = float(ordered[below - 1]) if below else -math.inf
    return Interval(float(np.quantile(ordered, quantile)), lower, upper)


def growth_bounds(after: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> Interval:
    """How many times as large the values [n] of `after` are as those [m] of `before`, all above 0.

    The median of the ratios of all pairs, with Mann and Whitney's bounds (Hodges and Lehmann,
    Annals of Mathematical Statistics 34, 1963, 598-611): they hold for any distribution that only
    grew or shrank. NaN for values that are not above 0 or not finite, and without any. Of very many
    values some are taken, evenly.
    """
    both = np.concatenate([after, before])
    if not (after.size and before.size and np.isfinite(both).all() and (both > 0).all()):
        return Interval(math.nan, math.nan, math.nan)
    above, below = _evenly(after), _evenly(before)
    ratios = np.sort(np.divide.outer(above, below).ravel())
    outside = _rank_sum_misses(len(above), len(below))
    measured = float(np.median(ratios))
    if not outside:
        return Interval(measured, 0.0, math.inf)
    return Interval(measured, float(ratios[outside - 1]), float(ratios[-outside]))


def _evenly(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    count = min(len(values), MOST_COMPARED)
    chosen: npt.NDArray[np.float64] = values[np.linspace(0, len(values) - 1, count).astype(int)]
    return chosen


def _rank_sum_misses(first: int, second: int) -> int:
    """The largest k with P(U < k) <= 1 - CONFIDENCE, U being Mann and Whitney's of as many values.

    Counts the orders of both by what the last of them adds to U (Mann and Whitney, Annals of
    Mathematical Statistics 18, 1947, 50-60).
    """
    size = first * second + 1
    ways = [np.eye(1, size)[0] for _ in range(second + 1)]
    for _ in range(first):
        for other in range(1, second + 1):
            shifted = np.concatenate([np.zeros(other), ways[other][: size - other]])
            ways[other] = shifted + ways[other - 1]
    chances = np.cumsum(ways[second]) / np.sum(ways[second])
    return int(np.sum(chances <= 1 - CONFIDENCE))


def _misses(count: int, chance: float) -> int:
    """The largest k with P(Binomial(count, chance) < k) <= 1 - CONFIDENCE."""
    ranks = np.arange(count)
    return int(np.sum(bdtr(ranks, count, chance) <= 1 - CONFIDENCE))


def proportion_bounds(successes: int, count: int) -> Interval:
    """Clopper and Pearson's exact bounds on a proportion (Biometrika 26, 1934, 404-413)."""
    if count == 0:
        return Interval(math.nan, math.nan, math.nan)
    failures = count - successes
    lower = float(betaincinv(successes, failures + 1, 1 - CONFIDENCE)) if successes else 0.0
    upper = float(betaincinv(successes + 1, failures, CONFIDENCE)) if failures else 1.0
    return Interval(successes / count, lower, upper)


def score_bounds(scores: Sequence[float]) -> Interval:
    """Bounds on the mean of scores in [0, 1]: exact for scores of 0 and 1, else Student's t.

    Those of t are never narrower than `paired_drop`'s for no change at all. NaN without scores and
    for scores that are not finite.
    """
    count, values = len(scores), np.asarray(scores, float)
    if count == 0 or not np.isfinite(values).all():
        return Interval(math.nan, math.nan, math.nan)
    if are_counts(scores):
        return proportion_bounds(int(values.sum()), count)
    bounds, least = mean_bounds(scores), Z**2 / (count + Z**2)
    mean = bounds.measured
    return Interval(mean, min(bounds.lower, mean - least), max(bounds.upper, mean + least))


def are_counts(scores: Sequence[float]) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(np.asarray(scores, float), (0.0, 1.0)).all())


def paired_drop(dense: Sequence[float], shipped: Sequence[float]) -> Interval:
    """How much lower `shipped` scores than `dense`, sample by sample.

    Scores of 0 and 1 get Tango's score bounds (Statistics in Medicine 17, 1998, 891-908),
    which stay honest when few or no samples changed. Other scores in [0, 1] get t bounds,
    never narrower than Tango's for no change at all.
    """
    count = len(dense)
    if count == 0 or count != len(shipped):
        return Interval(math.nan, math.nan, math.nan)
    before, after = np.asarray(dense, float), np.asarray(shipped, float)
    if not np.isfinite([before, after]).all():
        return Interval(math.nan, math.nan, math.nan)
    drop = float(np.mean(before - after))
    if are_counts(dense) and are_counts(shipped):
        lost, won = int(np.sum(before > after)), int(np.sum(before < after))
        upper = tango_upper(lost, won, count)
        return Interval(drop, -tango_upper(won, lost, count), upper)
    bounds = mean_bounds(list(before - after))
    least = Z**2 / (count + Z**2)
    return Interval(drop, min(bounds.lower, drop - least), max(bounds.upper, drop + least))


def provable_drop(count: int, changed: float = 0.05) -> float:
    """The smallest drop that `count` samples can rule out for a network that lost nothing.

    Assumes that the part `changed` of them is answered otherwise, as often better as worse.
    """
    each = round(changed * count / 2)
    return tango_upper(each, each, count)


def samples_needed(drop: float, changed: float = 0.05) -> int | None:
    """The fewest samples with which `provable_drop` is within `drop`, to two digits.

    None where no number that anybody has is enough, as for no drop at all.
    """
    count = 1
    while provable_drop(count, changed) > drop:
        count += max(1, count // 50)
        if count > MOST_SAMPLES:
            return None
    return count


def tango_upper(lost: int, won: int, count: int) -> float:
    """The largest paired difference (lost - won) / count that the data do not reject.

    Solves z(delta) = -Z for Tango's score statistic by bisection; z falls as delta grows.
    """
    low, high = (lost - won) / count, 1.0
    for _ in range(60):
        delta = (low + high) / 2
        # The constrained maximum-likelihood estimate of P(won), equation 5 of the source.
        b = -lost - won + (2 * count - lost + won) * delta
        c = -won * delta * (1 - delta)
        p_won = (math.sqrt(max(b * b - 8 * count * c, 0.0)) - b) / (4 * count)
        variance = count * (2 * p_won + delta * (1 - delta))
        z = (lost - won - count * delta) / math.sqrt(variance) if variance > 0 else -math.inf
        low, high = (delta, high) if z > -Z else (low, delta)
    return high
