"""What few samples say by chance is not believed; what they say truly is."""

import pytest
import torch
from half_pruned import walk_in_parts_of
from torch import Tensor, nn

from pipeline.network.groups import find_groups
from pipeline.scoring.second_moments import eliminations
from pipeline.scoring.shrinkage import chance_square, shrink, squared_moments

DOUBLE = torch.float64


def share_of(rows: Tensor, samples: int) -> float:
    """The part of the first moment off the diagonal that goes; `rows` [samples * n, columns]."""
    moments = (rows.T @ rows / len(rows))[None]
    chance = chance_square(moments, squared_moments(rows[None], samples) / samples, samples)
    found = moments.clone()
    shrink(found, chance)
    return 1 - float(found[0, 0, 1] / moments[0, 0, 1])


def test_the_share_is_the_variance_of_the_moments_over_their_square() -> None:
    # Products off the diagonal: 3, 1, 2 and 2; their mean is 2, its variance (2 / 3) / 4.
    rows = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE)
    assert share_of(rows, 4) == pytest.approx((2 / 3) / 4 / 2**2)


def test_rows_of_one_sample_are_one_observation() -> None:
    torch.manual_seed(0)
    rows = torch.randn(30, 5, dtype=DOUBLE)
    assert share_of(rows.repeat_interleave(7, 0), 30) == pytest.approx(share_of(rows, 30))


@pytest.mark.parametrize("n", [2, 9])
def test_more_rows_than_columns_and_fewer_are_counted_alike(n: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(6 * n, 4, dtype=DOUBLE)
    each = [part.T @ part / n for part in rows.split(n)]
    off = [(one - one.diag().diag()).square().sum() for one in each]
    assert float(squared_moments(rows[None], 6)) == pytest.approx(float(sum(off)))


def test_samples_that_say_the_same_leave_nothing_to_chance_and_one_tells_nothing_of_it() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0]], dtype=DOUBLE)
    assert share_of(rows.repeat(5, 1), 5) == pytest.approx(0, abs=1e-12)
    assert share_of(rows, 1) == pytest.approx(0, abs=1e-12)
    nothing = torch.zeros(1, 3, 3, dtype=DOUBLE)
    shrink(nothing, chance_square(nothing, squared_moments(torch.zeros(1, 5, 3), 5) / 5, 5))
    assert not nothing.any()


def test_shrinking_leaves_the_diagonal_and_each_group_its_own_share() -> None:
    found = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=DOUBLE).repeat(2, 1, 1)
    shrink(found, torch.tensor([2.0, 9.0], dtype=DOUBLE))  # of a square of 8
    assert found[0].tolist() == [[4.0, 1.5], [1.5, 3.0]]
    assert found[1].tolist() == [[4.0, 0.0], [0.0, 3.0]]


class Wide(nn.Module):
    """60 hidden units that have nothing to do with each other, and weigh the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(60, 60), nn.Linear(60, 4)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(60))
            self.last.weight.copy_(torch.eye(4).repeat_interleave(15, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x))
        return y


@pytest.mark.parametrize("size", [1, 3, 40])
def test_units_that_few_samples_cannot_tell_apart_are_not_held_to_replace_each_other(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk_in_parts_of(size, monkeypatch)
    torch.manual_seed(0)
    network, inputs = Wide().eval(), torch.randn(40, 60)
    groups = find_groups(network, inputs[:1]).groups
    (found,) = eliminations(network, groups, inputs, 1000).values()
    # The truth is one half; 40 samples of 60 units would replace any 21 of them exactly.
    assert 0.4 < found.errors[30] < 0.6
