"""Where each layer's answer counts, on networks whose layers are known by hand."""

from collections.abc import Callable, Mapping

import pytest
import torch
from networks import (
    NETWORKS,
    Chain,
    Concat,
    Depthwise,
    Fork,
    Grouped,
    PreActivation,
    Residual,
    trained,
)
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.output_sites import Site, find_sites
from pipeline.layers.torch_calls import RELU, UNBOUNDED, Range

SIX: Range = (0.0, 6.0)
MAP = (8, 8)

BY_HAND: Mapping[type[nn.Module], list[Site]] = {
    Chain: [
        Site("conv1", MAP, "bn1", range=RELU),
        Site("conv2", MAP, range=RELU, reads="conv1"),
        Site("fc", ()),  # reads the mean over positions
    ],
    Residual: [
        Site("stem", MAP, "bn", range=RELU),
        Site("inner.0", MAP, "inner_bn.0", range=RELU),  # the sum reads the stem's output too
        Site("outer.0", MAP, "outer_bn.0", joins=True, range=RELU, reads="inner.0"),
        Site("inner.1", MAP, "inner_bn.1", range=RELU),
        Site("outer.1", MAP, "outer_bn.1", joins=True, range=RELU, reads="inner.1"),
        Site("fc", ()),
    ],
    Depthwise: [
        Site("expand", MAP, "bn1", range=SIX),
        Site("depthwise", MAP, "bn2", range=SIX, reads="expand"),
        Site("project", MAP, reads="depthwise"),
        Site("fc", ()),
    ],
    Grouped: [
        Site("reduce", MAP, range=RELU),
        Site("grouped", MAP, range=RELU, reads="reduce"),
        Site("project", MAP, range=RELU, reads="grouped"),
        Site("fc", ()),
    ],
    Concat: [  # a transposed convolution is no site, and GELU lets no interval through
        Site("left", MAP, range=RELU),
        Site("right", MAP, range=RELU),
        Site("fc1", ()),
        Site("fc2", ()),
    ],
}


def sites(network: nn.Module, size: int = 8) -> dict[str, Site]:
    return find_sites(network.eval(), torch.randn(2, 3, size, size))


def test_every_network_is_known_by_hand() -> None:
    assert set(BY_HAND) == set(NETWORKS)


@pytest.mark.parametrize("kind", NETWORKS)
def test_sites_of_known_networks_are_those_found_by_hand(kind: type[nn.Module]) -> None:
    found = sites(trained(kind))
    assert list(found.values()) == BY_HAND[kind]
    assert list(found) == [site.layer for site in BY_HAND[kind]]


class Pair(nn.Module):
    """conv1 - something - conv2."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.between(self.bn(self.conv1(x))))
        return y


ACTIVATIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], Range]] = {
    "relu module": (nn.ReLU(), RELU),
    "relu module in place": (nn.ReLU(inplace=True), RELU),
    "relu function": (functional.relu, RELU),
    "relu function in place": (lambda x: functional.relu(x, inplace=True), RELU),
    "torch.relu": (torch.relu, RELU),
    "torch.relu_": (torch.relu_, RELU),
    "torch.relu, named": (lambda x: torch.relu(input=x), RELU),
    "relu method": (lambda x: x.relu(), RELU),
    "relu_ method": (lambda x: x.relu_(), RELU),
    "relu6 module": (nn.ReLU6(), SIX),
    "relu6 module in place": (nn.ReLU6(inplace=True), SIX),
    "relu6 function": (functional.relu6, SIX),
    "hardtanh module": (nn.Hardtanh(-2.0, 3.0), (-2.0, 3.0)),
    "hardtanh function": (lambda x: functional.hardtanh(x, -2.0, 3.0), (-2.0, 3.0)),
    "hardtanh_ function": (lambda x: functional.hardtanh_(x, -2.0, 3.0), (-2.0, 3.0)),
    "hardtanh's own limits": (functional.hardtanh, (-1.0, 1.0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_range_of_an_activation_is_seen_however_it_is_called(name: str) -> None:
    between, limits = ACTIVATIONS[name]
    found = sites(Pair(between))
    assert found["conv1"] == Site("conv1", MAP, "bn", range=limits)
    assert found["conv2"] == Site("conv2", MAP, reads="conv1")


@pytest.mark.parametrize("between", [functional.gelu, torch.sigmoid, functional.hardswish])
def test_an_activation_that_lets_no_interval_through_bounds_nothing(
    between: Callable[[Tensor], Tensor],
) -> None:
    found = sites(Pair(between))
    assert found["conv1"].range == UNBOUNDED
    assert found["conv2"].reads is None


@pytest.mark.parametrize("dropout", [functional.dropout, functional.dropout2d])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_is_looked_through_before_the_activation(
    dropout: Callable[[Tensor, float, bool, bool], Tensor], inplace: bool
) -> None:
    found = sites(Pair(lambda x: functional.relu(dropout(x, 0.5, False, inplace))))
    assert found["conv1"].range == RELU


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.avg_pool2d(x, 3, 1, 1),
        lambda x: x * 2,
        lambda x: torch.cat([x[:, :3], x[:, 3:]], 1),
    ],
)
def test_a_layer_reads_no_layer_when_something_lies_between(
    pool: Callable[[Tensor], Tensor],
) -> None:
    assert sites(Pair(lambda x: pool(functional.relu(x))))["conv2"].reads is None


def without_a_channel(x: Tensor) -> Tensor:
    x[:, 0] = 0.0
    return x


def test_a_layer_reads_no_layer_whose_output_is_overwritten_before() -> None:
    assert sites(Pair(lambda x: without_a_channel(functional.relu(x))))["conv2"].reads is None


def test_an_activation_that_two_layers_read_is_read_by_none_alone() -> None:
    found = sites(Fork())
    assert found["left"].reads is None
    assert found["right"].reads is None


def test_in_a_sum_of_three_the_first_two_count_in_theirs_and_the_third_in_the_whole() -> None:
    found = sites(Fork())
    assert [name for name, site in found.items() if site.joins] == ["left", "right", "third"]
    ranges = [found[name].range for name in ("left", "right", "third")]
    assert ranges == [UNBOUNDED, UNBOUNDED, RELU]
    assert found["right"].norm == "norm"
    assert not found["conv1"].joins


def test_a_norm_behind_a_sum_is_nobodys_and_what_follows_it_bounds_nothing() -> None:
    found = sites(PreActivation())
    assert found["conv2"] == Site("conv2", MAP, joins=True, reads="conv1")


def test_a_norm_is_not_that_of_a_layer_whose_output_is_also_added_as_it_is() -> None:
    found = sites(PreActivation())
    assert found["stem"].norm is None
    assert found["stem"].range == UNBOUNDED


@pytest.mark.parametrize(
    "other",
    [
        lambda x: functional.relu(-x),
        lambda x: torch.cat([x[:, :0], x], 1),
        lambda x: torch.cat(tensors=[x], dim=1),
        lambda x: torch.cat(x.chunk(2, 1), 1),
    ],
)
def test_an_output_that_others_read_as_it_is_is_not_bounded_by_an_activation(
    other: Callable[[Tensor], Tensor],
) -> None:
    found = sites(Pair(lambda x: functional.relu(x) - other(x)))
    assert found["conv1"].range == UNBOUNDED


SUMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda x, y: x + y,
    "+=": lambda x, y: x.__iadd__(y),
    "torch.add": torch.add,
    "torch.add, named": lambda x, y: torch.add(input=x, other=y),
    "add_": lambda x, y: x.add_(y),
}


class Skip(nn.Module):
    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.add = nn.Conv2d(3, 3, 3, padding=1), add

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.add(self.conv(x), x))


@pytest.mark.parametrize("add", SUMS)
def test_a_sum_with_a_skip_is_seen_however_it_is_written(add: str) -> None:
    assert sites(Skip(SUMS[add]))["conv"] == Site("conv", MAP, joins=True, range=RELU)


def test_a_number_or_a_tensor_that_is_spread_out_is_no_sum() -> None:
    assert not sites(Skip(lambda x, _: x + 1.0))["conv"].joins
    assert not sites(Skip(lambda x, _: x + torch.ones(3, 1, 1)))["conv"].joins


@pytest.mark.parametrize("samples", [1, 2])
def test_what_is_added_to_every_sample_alike_is_no_sum(samples: int) -> None:
    network = Skip(lambda x, _: x + torch.ones(1, 3, 8, 8)).eval()
    assert find_sites(network, torch.randn(samples, 3, 8, 8)) == {"conv": Site("conv", MAP)}


class SharedNorm(nn.Module):
    """x += norm(a(x)) + norm(b(x)), with one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
        self.a, self.b = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x += self.norm(self.a(x)) + self.norm(self.b(x))
        logits: Tensor = self.fc(functional.relu(x).mean((2, 3)))
        return logits


def test_a_layer_whose_norm_is_shared_counts_before_the_norm_and_the_sum() -> None:
    found = sites(SharedNorm())
    assert [found[name] for name in "ab"] == [Site("a", MAP), Site("b", MAP)]


@pytest.mark.parametrize("alpha", [2, -1])
def test_a_sum_of_which_one_side_is_scaled_is_no_sum(alpha: int) -> None:
    found = sites(Skip(lambda x, y: torch.add(x, y, alpha=alpha)))
    assert found["conv"] == Site("conv", MAP)


class Twice(nn.Module):
    """A layer that runs twice, between two that run once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1)
        self.shared = nn.Conv2d(5, 5, 3, padding=1)
        self.last = nn.Conv2d(5, 4, 1)
        self.never = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        y: Tensor = self.last(functional.relu(self.shared(functional.relu(self.shared(x)))))
        return y


def test_a_layer_that_runs_twice_or_never_is_no_site() -> None:
    assert list(sites(Twice())) == ["first", "last"]


def test_places_are_positions_of_the_output_and_tokens_of_a_linear_layer() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2), nn.Flatten(2), nn.Conv1d(5, 7, 2), nn.Linear(8, 3)
    )
    found = sites(network)
    assert [site.places for site in found.values()] == [(3, 3), (8,), (7,)]


def test_finding_sites_leaves_the_network_and_the_input_as_they_were() -> None:
    network, example = trained(Residual), torch.randn(1, 3, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = example.clone()
    find_sites(network, example)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(example, given)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
