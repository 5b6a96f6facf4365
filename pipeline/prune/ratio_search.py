"""The largest part of the MACs that meets a budget of measured figures, in few measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_BUILDS = 4
"""Networks that are built and measured at most."""
CLOSE = 0.015
"""A network that leaves less than this part of the budget is as large as need be."""
AIM = 0.99
"""The part of the budget that is aimed at, so that noise does not carry it over."""
FIXED = 0.07
"""The part of the dense network's time that no pruning takes, until two networks tell it."""
MARGIN = 0.05
"""How near the next network may come to the ends of what is still open, as a part of it."""


@dataclass(frozen=True)
class Point:
    """A network that was measured."""

    ratio: float
    """MACs kept / dense MACs."""
    share: float
    """Of the budget that it takes: the largest of figure / limit; at most 1 meets it."""


def best_of(points: Sequence[Point]) -> Point | None:
    """The largest network that meets the budget; None where none does."""
    return max((p for p in points if p.share <= 1), key=lambda p: p.ratio, default=None)


def next_ratio(points: Sequence[Point], floors: Sequence[float]) -> float | None:
    """The part of the MACs to try next; None where `best_of` is as good as it gets.

    `points` begin with the dense network. `floors` are the least parts that networks keep in the
    widths that the device likes best, in those it likes less and so on: networks in other widths
    may take more time with fewer MACs, so each floor is tried before anything is below it.
    """
    over = sorted((p for p in points if p.share > 1), key=lambda p: p.ratio)
    best = best_of(points)
    if not over or len(points) > MOST_BUILDS:
        return None
    above = over[0]
    if best is None:
        smallest = next((floor for floor in floors if floor < above.ratio), None)
        if smallest is None:
            return None
        return max(smallest, min(_on_line(_slope_behind(over), above), (1 - MARGIN) * above.ratio))
    if best.share >= 1 - CLOSE or best.ratio >= above.ratio:
        return None
    open_ = above.ratio - best.ratio
    wanted = _on_line((above.share - best.share) / open_, above)
    return min(max(wanted, best.ratio + MARGIN * open_), above.ratio - MARGIN * open_)


def _slope_behind(over: Sequence[Point]) -> float:
    """Share a ratio, from the two smallest networks, none of which meets the budget."""
    first, *more = over
    if more and more[0].share > first.share:
        return (more[0].share - first.share) / (more[0].ratio - first.ratio)
    return (1 - FIXED) * first.share / first.ratio


def _on_line(slope: float, point: Point) -> float:
    """The ratio at which a line through `point` takes the part of the budget that is aimed at."""
    return point.ratio - (point.share - AIM) / slope
