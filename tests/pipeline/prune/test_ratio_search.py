"""The largest network within a budget, found on devices whose truth is known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipeline.prune.ratio_search import CLOSE, MOST_BUILDS, Point, best_of, next_ratio

Device = Callable[[float], float]
"""The true time of a network by the part of the MACs that it keeps; 1 for the dense one."""


def straight(ratio: float) -> float:
    return 0.1 + 0.9 * ratio


def curved(ratio: float) -> float:
    return float(0.3 * ratio**0.5 + 0.7 * ratio**1.5)


def staircase(ratio: float) -> float:
    return 0.08 + 0.92 * float(np.ceil(ratio * 40)) / 40


def searched(
    device: Device, limit: float, smallest: float = 0.01, noise: Sequence[float] = (1.0,) * 5
) -> list[Point]:
    points = [Point(1.0, device(1.0) / limit * noise[0])]
    while (ratio := next_ratio(points, [smallest])) is not None:
        points.append(Point(ratio, device(ratio) / limit * noise[len(points)]))
    return points


@pytest.mark.parametrize("limit", [0.9, 0.8, 0.6, 0.4, 0.2])
@pytest.mark.parametrize("device", [straight, curved, staircase])
def test_the_budget_is_met_and_nearly_used_up_in_few_builds(device: Device, limit: float) -> None:
    points = searched(device, limit)
    best = best_of(points)
    assert best is not None
    assert 1 - 4 * CLOSE <= best.share <= 1
    assert len(points) - 1 <= MOST_BUILDS


def test_noise_and_drift_carry_no_network_over_the_budget_unseen() -> None:
    """Of 100 devices whose times are read with 1 % of noise, 1 % too long to be safe, and 3 %
    longer at the end of the search than at its beginning."""
    met, near = 0, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        noise = np.linspace(1, 1.03, MOST_BUILDS + 1) * generator.normal(1.01, 0.01, 5)
        limit = generator.uniform(0.3, 0.9)
        points = searched(staircase, limit, noise=noise.tolist())
        best = best_of(points)
        assert len(points) - 1 <= MOST_BUILDS
        if best is not None:
            met += staircase(best.ratio) <= limit
            near += staircase(best.ratio) >= 0.9 * limit
    assert met >= 95
    assert near >= 95


def test_a_dense_network_within_the_budget_needs_no_other() -> None:
    assert next_ratio([Point(1.0, 0.99)], [0.1]) is None


def test_a_budget_beyond_reach_is_known_once_the_smallest_network_was_measured() -> None:
    points = searched(straight, 0.12, smallest=0.2)
    assert best_of(points) is None
    assert points[-1].ratio == 0.2


def test_narrow_widths_that_the_device_likes_are_tried_before_others() -> None:
    """Below half of the MACs widths are odd, and a network takes longer than at half."""
    points = [Point(1.0, 1.7), Point(0.54, 1.07)]
    assert next_ratio(points, [0.5, 0.02]) == 0.5
    beyond = next_ratio([*points, Point(0.5, 1.03)], [0.5, 0.02])
    assert beyond is not None
    assert beyond < 0.5


def test_a_device_that_gets_no_faster_ends_the_search() -> None:
    points = searched(lambda _: 1.0, 0.8, smallest=0.2)
    assert best_of(points) is None
    assert len(points) - 1 == MOST_BUILDS
