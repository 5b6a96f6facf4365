"""What few samples say by chance is not believed; what they say truly is."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.network.groups import find_groups
from pipeline.scoring.second_moments import eliminations
from pipeline.scoring.shrinkage import chance_share, shrunk, squared_moments

DOUBLE = torch.float64


def share_of(rows: Tensor, samples: int) -> float:
    """Of `rows` [samples * n, columns]."""
    moments = (rows.T @ rows / len(rows))[None]
    return float(chance_share(moments, squared_moments(rows[None], samples) / samples, samples))


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
    assert share_of(torch.zeros(5, 3, dtype=DOUBLE), 5) == 0


def test_shrinking_leaves_the_diagonal_and_each_group_its_own_share() -> None:
    moments = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=DOUBLE).expand(2, 2, 2)
    found = shrunk(moments, torch.tensor([0.25, 1.0], dtype=DOUBLE))
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


def test_units_that_few_samples_cannot_tell_apart_are_not_held_to_replace_each_other() -> None:
    torch.manual_seed(0)
    network, inputs = Wide().eval(), torch.randn(40, 60)
    groups = find_groups(network, inputs[:1]).groups
    (found,) = eliminations(network, groups, inputs, 1000).values()
    # The truth is one half; 40 samples of 60 units would replace any 21 of them exactly.
    assert 0.35 < found.errors[30] < 0.65
