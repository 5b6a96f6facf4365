"""Coupled channels, the plan made of them, and the smaller network that is really the same."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Chain, Concat, Depthwise, Grouped, Residual, trained
from torch import Tensor, nn

from pipeline.network.groups import Group, fault, find_groups, make_plan
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan, masked
from pipeline.network.weights import load_weights, read_weights, write_weights
from profiles.errors import ConfigError
from profiles.spec import read_spec

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def members(group: Group) -> set[tuple[str, str]]:
    return {(member.layer, member.side) for member in group.members}


def by_name(network: nn.Module) -> dict[str, Group]:
    return {group.name: group for group in find_groups(network, EXAMPLE).groups}


def test_a_chain_couples_a_layer_with_its_norm_and_its_reader() -> None:
    groups = by_name(trained(Chain))
    assert set(groups) == {"conv1", "conv2"}
    assert members(groups["conv1"]) == {("conv1", "out"), ("bn1", "out"), ("conv2", "in")}
    assert members(groups["conv2"]) == {("conv2", "out"), ("fc", "in")}


def test_a_residual_stream_is_one_group_and_every_inner_layer_its_own() -> None:
    groups = by_name(trained(Residual))
    assert [group.size for group in groups.values()] == [8, 6, 6]
    stream = next(group for group in groups.values() if group.size == 8)
    written = {layer for layer, side in members(stream) if side == "out"}
    read = {layer for layer, side in members(stream) if side == "in"}
    assert written == {"stem", "bn", "outer.0", "outer.1", "outer_bn.0", "outer_bn.1"}
    assert read == {"inner.0", "inner.1", "fc"}


def test_a_depthwise_layer_goes_with_its_producer() -> None:
    group = by_name(trained(Depthwise))["expand"]
    assert ("depthwise", "out") in members(group)
    assert ("depthwise", "in") not in members(group)


def test_the_channels_of_a_grouped_layer_go_by_the_same_place_in_every_group() -> None:
    groups = by_name(trained(Grouped))
    assert (groups["reduce"].size, groups["reduce"].channels) == (2, 8)
    assert (groups["grouped"].size, groups["grouped"].channels) == (4, 16)


def test_a_multiple_counts_the_channels_of_one_group_of_a_grouped_layer() -> None:
    """64 channels in 4 groups and 48 of them, 12 a group, take 1.1 to 2 times as long as all."""
    groups = by_name(trained(Grouped))
    assert groups["grouped"].conv_groups == groups["reduce"].conv_groups == 4
    assert groups["grouped"].unit_multiple(8) == 8
    assert groups["reduce"].unit_multiple(8) == 8


def test_branches_of_a_concatenation_are_groups_of_their_own_in_one_reader() -> None:
    groups = by_name(trained(Concat))
    left = next(m for m in groups["left"].members if m.layer == "mix")
    right = next(m for m in groups["right"].members if m.layer == "mix")
    assert left.channels.tolist() == [0, 1, 2, 3]
    assert right.channels.tolist() == [4, 5, 6, 7, 8, 9]
    flattened = next(m for m in groups["mix"].members if m.layer == "fc1")
    assert flattened.units.tolist() == [channel for channel in range(5) for _ in range(16)]


class OnePRelu(nn.Module):
    """Convolutions of these widths, all with the same PReLU behind them."""

    def __init__(self, slopes: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.second = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.act = nn.PReLU(slopes)
        self.fc = nn.Linear(widths[1], 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("widths", [(8, 8), (6, 12), (12, 6)])
def test_one_slope_for_all_channels_couples_nothing_and_stays(widths: tuple[int, int]) -> None:
    network = OnePRelu(1, widths).eval()
    groups = find_groups(network, EXAMPLE).groups
    assert [(group.name, group.size) for group in groups] == [
        ("first", widths[0]),
        ("second", widths[1]),
    ]
    assert members(groups[0]) == {("first", "out"), ("second", "in")}
    assert members(groups[1]) == {("second", "out"), ("fc", "in")}
    kept = {group.name: np.arange(2, group.size) for group in groups}
    plan = make_plan(network, groups, kept)
    assert fault(network, plan, EXAMPLE) == ""
    act = apply_plan(network, plan).get_submodule("act")
    assert torch.equal(act.get_parameter("weight"), network.act.weight)


def test_a_slope_for_each_channel_couples_all_layers_that_it_follows() -> None:
    (group,) = find_groups(OnePRelu(8, (8, 8)).eval(), EXAMPLE).groups
    assert {("first", "out"), ("second", "out"), ("act", "out"), ("fc", "in")} < members(group)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_networks_outputs_are_never_in_a_group(kind: type[nn.Module]) -> None:
    network = trained(kind)
    found = find_groups(network, EXAMPLE)
    last = list(dict(network.named_modules()))[-1]
    assert all((last, "out") not in members(group) for group in found.groups)
    assert "output" in found.refused[last]


class Mixing(nn.Module):
    """The mean over channels reads conv1 where no graph of layers shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 1)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv2(x - x.mean(1, keepdim=True))
        logits: Tensor = self.fc(x.relu().mean((2, 3)))
        return logits


class Padded(nn.Module):
    """A parameter-free shortcut that pads channels, as CIFAR's ResNets have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = (self.conv2(self.conv1(x).relu()) + shortcut).relu()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize(("kind", "good"), [(Mixing, {"conv2"}), (Padded, {"conv1"})])
def test_a_group_that_is_not_really_separable_is_refused_with_its_reason(
    kind: type[nn.Module], good: set[str]
) -> None:
    found = find_groups(trained(kind), EXAMPLE)
    assert {group.name for group in found.groups} == good
    assert all(found.refused.values())


@pytest.mark.parametrize("kind", NETWORKS)
def test_removing_channels_computes_the_same_as_silencing_them(kind: type[nn.Module]) -> None:
    network = trained(kind)
    groups = find_groups(network, EXAMPLE).groups
    smaller, changed = [], []

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        kept = {}
        for group in groups:
            units = st.sets(st.integers(0, group.size - 1), min_size=1)
            kept[group.name] = np.array(sorted(data.draw(units)))
        plan = make_plan(network, groups, kept)
        assert fault(network, plan, EXAMPLE) == ""
        small, large = apply_plan(network, plan), masked(network, plan)
        with torch.no_grad():
            found, wanted, before = small(EXAMPLE), large(EXAMPLE), network(EXAMPLE)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        parameters = [sum(p.numel() for p in one.parameters()) for one in (small, large)]
        assert parameters[0] <= parameters[1]
        smaller.append(parameters[0] < parameters[1])
        changed.append(not torch.allclose(found, before))

    holds()
    assert any(smaller)
    assert any(changed)


@pytest.mark.parametrize("kind", NETWORKS)
def test_plan_and_weights_from_files_give_the_pruned_network_bit_for_bit(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    network = trained(kind)
    groups = find_groups(network, EXAMPLE).groups
    plan = make_plan(network, groups, {g.name: np.arange(0, g.size, 2) for g in groups})
    pruned = apply_plan(network, plan)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    write_weights(pruned, tmp_path / "model.safetensors")
    torch.manual_seed(7)
    fresh = apply_plan(kind(), read_spec(tmp_path / "plan.json", PruningPlan)).eval()
    load_weights(fresh, read_weights(tmp_path / "model.safetensors"), "model.safetensors")
    with torch.no_grad():
        assert torch.equal(fresh(EXAMPLE), pruned(EXAMPLE))


def test_finding_groups_and_applying_a_plan_leave_the_network_as_it_was() -> None:
    network = trained(Residual)
    before = copy.deepcopy(network.state_dict())
    groups = find_groups(network, EXAMPLE).groups
    apply_plan(network, make_plan(network, groups, {g.name: np.arange(1) for g in groups}))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"gone": LayerPlan(out=Kept(of=8, channels=(0,)))}, "gone"),
        ({"conv1": LayerPlan(out=Kept(of=9, channels=(0,)))}, "9 out channels"),
        ({"conv1": LayerPlan(out=Kept(of=8, channels=(1, 0)))}, "sorted"),
        ({"conv1": LayerPlan(out=Kept(of=8, channels=(0, 8)))}, "in range"),
        ({"conv1": LayerPlan(out=Kept(of=8, channels=()))}, "in range"),
    ],
)
def test_a_plan_for_another_network_is_refused(plan: dict[str, LayerPlan], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        apply_plan(trained(Chain), PruningPlan(layers=plan))
