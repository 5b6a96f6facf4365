"""Backward elimination: hand-checked losses, the optimum by brute force, moments of networks."""

import itertools

import numpy as np
import pytest
import torch
from half_pruned import images, walk_in_parts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Chain, Concat, Depthwise, Grouped, Residual, trained
from random_samples import stats_of
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.groups import find_groups
from pipeline.prune.criteria import group_scores
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.scoring.elimination import Consumer, eliminate
from pipeline.scoring.second_moments import eliminations
from profiles.errors import StageError

TINY = 1e-9


def consumer(moments: Tensor, weight: Tensor, columns: int = 1, variance: float = 1.0) -> Consumer:
    units = torch.arange(len(moments)).reshape(-1, columns)
    return Consumer(moments.double(), weight.double(), units, variance)


def loss(one: Consumer, kept: tuple[int, ...]) -> float:
    """The error of the best linear map of the kept units alone."""
    there = one.units[list(kept)].flatten()
    gone = torch.tensor([c for c in range(len(one.moments)) if c not in there.tolist()])
    if not len(gone):
        return 0.0
    left, across = one.moments[gone][:, gone], one.moments[gone][:, there]
    if len(there):
        left = left - across @ torch.linalg.pinv(one.moments[there][:, there]) @ across.T
    return float((one.weight[gone] * (left @ one.weight[gone])).sum()) / one.variance


def test_the_loss_of_orthogonal_inputs_is_their_power_times_their_squared_weights() -> None:
    moments = torch.diag(torch.tensor([1.0, 4.0, 0.25]))
    weight = torch.tensor([[1.0, 2.0], [1.0, 0.0], [2.0, 2.0]])  # losses 5, 4 and 2
    found = eliminate([consumer(moments, weight)], TINY)
    assert found.order == (2, 1, 0)
    assert found.errors == pytest.approx((11, 6, 2, 0), abs=1e-6)
    assert found.scores().tolist() == [2, 1, 0]


def test_a_unit_is_all_of_its_columns_and_errors_are_relative_to_the_variance() -> None:
    weight = torch.tensor([[3.0], [0.0], [1.0], [2.0]])  # units of two: losses 9 and 5
    found = eliminate([consumer(torch.eye(4), weight, columns=2, variance=10.0)], TINY)
    assert found.order == (1, 0)
    assert found.errors == pytest.approx((1.4, 0.5, 0.0), abs=1e-6)


def test_a_duplicated_channel_costs_nothing_and_goes_first() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    x[:, 3] = x[:, 1]
    weight = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    found = eliminate([consumer(x.T @ x / 500, weight)], 1e-7)
    assert found.order[0] in (1, 3)
    assert found.errors[3] == pytest.approx(0, abs=1e-4)
    assert found.order[1] == 0
    # Its weight is the survivor's now: 8 squared, not 3 or 5.
    assert found.errors[0] - found.errors[1] > 50


def test_a_sum_of_the_others_goes_before_a_weak_one() -> None:
    x = torch.randn(900, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([x, x.sum(1, keepdim=True)], 1)
    weight = torch.tensor([[4.0], [4.0], [0.1], [9.0]])
    assert eliminate([consumer(x.T @ x / 900, weight)], 1e-7).errors[3] < 1e-3


def test_losses_of_all_consumers_add_up() -> None:
    one = consumer(torch.eye(2), torch.tensor([[1.0], [2.0]]))
    other = consumer(torch.eye(2), torch.tensor([[3.0], [1.0]]), variance=4.0)
    found = eliminate([one, other], TINY)  # 1 + 9/4 and 4 + 1/4
    assert found.order == (0, 1)
    assert found.errors == pytest.approx((7.5, 3.25, 0), abs=1e-6)


def random_consumer(seed: int, size: int = 4, columns: int = 1) -> Consumer:
    generator = torch.Generator().manual_seed(seed)
    width = size * columns
    mixing = torch.randn(width, width, generator=generator)
    x = torch.randn(200, width, generator=generator) @ mixing
    return consumer(x.T @ x / 200, torch.randn(width, 3, generator=generator), columns)


def test_keeping_two_of_four_is_mostly_the_optimum_of_brute_force_or_near_it() -> None:
    hits = near = 0
    for seed in range(100):
        one = random_consumer(seed)
        found = eliminate([one], TINY)
        best = min(loss(one, kept) for kept in itertools.combinations(range(4), 2))
        hits += found.errors[2] < best * 1.001
        near += found.errors[2] < best * 2
    assert hits >= 75
    assert near >= 90


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 3))
def test_errors_are_those_of_a_fresh_least_squares_and_never_under_the_optimum(
    seed: int, size: int, columns: int
) -> None:
    one = random_consumer(seed, size, columns)
    found = eliminate([one], TINY)
    assert sorted(found.order) == list(range(size))
    assert len(found.errors) == size + 1
    assert found.errors[size] == 0
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(found.errors))
    for kept in range(size + 1):
        left = tuple(found.order[size - kept :])
        assert found.errors[kept] == pytest.approx(loss(one, left), rel=1e-3, abs=1e-4)
        optimum = min(loss(one, some) for some in itertools.combinations(range(size), kept))
        assert found.errors[kept] >= optimum - 1e-4 * max(1, optimum)
    scores = found.scores()
    assert [int(unit) for unit in np.argsort(scores)] == list(found.order)


@pytest.mark.parametrize("moments", [torch.zeros(3, 3), torch.ones(3, 3)])
def test_inputs_without_variance_or_all_alike_do_not_break_it(moments: Tensor) -> None:
    found = eliminate([consumer(moments, torch.ones(3, 1))], 1e-3)
    assert np.isfinite(found.errors).all()
    assert found.errors[2] < 1e-2


def test_where_there_are_many_units_one_in_a_hundred_goes_at_once() -> None:
    size = 300
    weight = torch.arange(1.0, size + 1)[:, None]
    found = eliminate([consumer(torch.eye(size), weight)], TINY)
    assert found.order == tuple(range(size))
    assert found.errors[0] == pytest.approx(float(weight.square().sum()), rel=1e-6)
    assert all(a >= b for a, b in itertools.pairwise(found.errors))


@pytest.mark.parametrize(
    ("kind", "group", "readers"),
    [
        (Chain, "conv1", ["conv2"]),
        (Residual, "inner.0", ["outer.0"]),
        (Residual, "stem", ["inner.0", "inner.1", "fc"]),
        (Depthwise, "project", ["fc"]),
        (Grouped, "project", ["fc"]),
    ],
)
def test_the_error_of_a_network_without_a_group_is_that_of_its_readers_constant(
    kind: type[nn.Module], group: str, readers: list[str]
) -> None:
    network, inputs = trained(kind), images(30)
    groups = find_groups(network, inputs[:1]).groups
    found = eliminations(network, groups, inputs, 10**6)
    assert list(found) == [one.name for one in groups]
    size = {one.name: one.size for one in groups}
    for name, one in found.items():
        assert sorted(one.order) == list(range(size[name]))
        assert all(a >= b - 1e-9 for a, b in itertools.pairwise(one.errors))
    # Nothing kept: every reader gives its mean, so each loses the variance it has without skip.
    if group in ("inner.0", "stem"):
        assert found[group].errors[0] > 0.02
    else:
        assert found[group].errors[0] == pytest.approx(len(readers), rel=0.02)


class Copies(nn.Module):
    """Channel 3 of conv1 is channel 0 doubled, channel 5 is dead, channel 6 is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        with torch.no_grad():
            for value in (self.conv1.weight, self.conv1.bias):
                assert value is not None
                value[3] = 2 * value[0]
                value[5], value[6] = 0, 0
            assert self.conv1.bias is not None
            self.conv1.bias[5], self.conv1.bias[6] = -1, 2
            self.conv2.weight[:, 5:7] *= 3  # heavy weights that nobody needs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return y


def test_copied_dead_and_constant_channels_of_a_network_go_first() -> None:
    torch.manual_seed(0)
    network, inputs = Copies().eval(), images(40)
    groups = find_groups(network, inputs[:1]).groups
    found = eliminations(network, groups, inputs, 10**6)["conv1"]
    assert {5, 6} < set(found.order[:3])
    assert set(found.order[:3]) - {5, 6} in ({0}, {3})
    assert 5 * found.errors[5] < found.errors[4]


def test_the_criterion_cannot_score_a_group_that_has_no_elimination_and_says_so() -> None:
    network = trained(Residual)
    groups, stats = stats_of(network, needs=frozenset())
    with pytest.raises(StageError, match=r"stem: .*'reconstruction' cannot score them"):
        group_scores(Reconstruction(), groups[0], stats)


def test_a_group_that_a_transposed_convolution_reads_has_no_elimination() -> None:
    network, inputs = trained(Concat), images(4)
    groups = find_groups(network, inputs[:1]).groups
    found = eliminations(network, groups, inputs, 1000)
    assert {group.name for group in groups} - set(found) == {"left", "right"}


@pytest.mark.parametrize("size", [1, 7])
def test_moments_do_not_depend_on_how_samples_are_cut_into_batches(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = trained(Grouped), images(160)
    groups = find_groups(network, inputs[:1]).groups
    once = eliminations(network, groups, inputs, 10**6)  # 128 at a time
    walk_in_parts_of(size, monkeypatch)
    often = eliminations(network, groups, inputs, 10**6)
    for name, one in once.items():
        assert often[name].order == one.order
        np.testing.assert_allclose(often[name].errors, one.errors, rtol=0.02, atol=1e-6)


def test_moments_that_rounding_has_left_indefinite_are_steadied() -> None:
    moments = torch.tensor([[1.0, 1.001], [1.001, 1.0]], dtype=torch.float64)
    consumer = Consumer(moments, torch.ones(2, 1, dtype=torch.float64), torch.tensor([[0], [1]]), 1)
    found = eliminate([consumer], ridge=1e-6)
    assert sorted(found.order) == [0, 1]
    assert np.isfinite(found.errors).all()


class AddedConstant(nn.Module):
    """A parameter [1, channels] is added to a linear layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, 5), nn.Linear(5, 4)
        self.shift = nn.Parameter(torch.ones(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(functional.relu(self.conv(x)).mean((2, 3))) + self.shift
        logits: Tensor = self.fc(functional.relu(hidden))
        return logits


class SharedNorm(nn.Module):
    """x += norm(a(x)) + norm(b(x)), with one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        x += self.norm(self.a(x)) + self.norm(self.b(x))
        logits: Tensor = self.fc(functional.relu(x).mean((2, 3)))
        return logits


@pytest.mark.parametrize("kind", [AddedConstant, SharedNorm])
@pytest.mark.parametrize("samples", [1, 60, 129])
def test_sums_that_are_no_sums_of_layers_are_ordered_as_well(
    kind: type[nn.Module], samples: int
) -> None:
    network = trained(kind)
    groups = find_groups(network, images(1)).groups
    found = eliminations(network, groups, images(samples), 1000)
    assert "conv" in found
    assert all(sorted(found[g.name].order) == list(range(g.size)) for g in groups)
