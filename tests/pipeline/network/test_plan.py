"""Two plans one after the other are one plan."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Grouped, trained
from torch import nn

from pipeline.network.groups import make_plan
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan, compose
from pipeline.prune.prunable import PrunableNetwork, inspect_network, with_units_of
from profiles.errors import ConfigError

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
NOTHING = PruningPlan(layers={})


def plan_of(prunable: PrunableNetwork, seed: int) -> PruningPlan:
    """Any number of any units of each group, one at least."""
    generator = np.random.default_rng(seed)
    kept = {
        group.name: np.sort(
            generator.permutation(group.size)[: generator.integers(1, group.size + 1)]
        )
        for group in prunable.groups
    }
    return make_plan(prunable.network, prunable.groups, kept)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_pruning_in_steps_is_pruning_by_the_composed_plan(kind: type[nn.Module]) -> None:
    dense = trained(kind)
    whole = inspect_network(dense, EXAMPLE)
    smaller = []

    @settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 3))
    def holds(seeds: tuple[int, int, int]) -> None:
        steps, plan = [dense], NOTHING
        for seed in seeds:
            step = plan_of(with_units_of(inspect_network(steps[-1], EXAMPLE), whole), seed)
            steps.append(apply_plan(steps[-1], step))
            plan = compose(plan, step)
        network, at_once = steps[-1], apply_plan(dense, plan)
        wanted, found = network.state_dict(), at_once.state_dict()
        assert list(found) == list(wanted)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        with torch.no_grad():
            assert torch.equal(at_once(EXAMPLE), network(EXAMPLE))
        smaller.append([parameters(b) < parameters(a) for a, b in itertools.pairwise(steps)])

    holds()
    assert all(any(step) for step in zip(*smaller, strict=True))


def test_composing_goes_through_the_channels_that_the_first_plan_keeps() -> None:
    first = PruningPlan(
        layers={
            "a": LayerPlan(out=Kept(of=8, channels=(1, 3, 4, 7))),
            "b": LayerPlan(inputs=Kept(of=8, channels=(1, 3, 4, 7))),
        }
    )
    second = PruningPlan(
        layers={
            "a": LayerPlan(out=Kept(of=4, channels=(0, 2)), inputs=Kept(of=3, channels=(1,))),
            "c": LayerPlan(out=Kept(of=2, channels=(0,))),
        }
    )
    assert compose(first, second).layers == {
        "a": LayerPlan(out=Kept(of=8, channels=(1, 4)), inputs=Kept(of=3, channels=(1,))),
        "b": first.layers["b"],
        "c": second.layers["c"],
    }


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_plan_that_removes_nothing_changes_nothing(kind: type[nn.Module]) -> None:
    network = trained(kind)
    plan = plan_of(inspect_network(network, EXAMPLE), 0)
    assert compose(NOTHING, plan) == compose(plan, NOTHING) == plan


def test_a_second_plan_for_another_network_is_told_so() -> None:
    first = PruningPlan(layers={"a": LayerPlan(out=Kept(of=8, channels=(1, 3)))})
    with pytest.raises(ConfigError, match="for a a with 8 channels, the first leaves 2"):
        compose(first, first)


def test_a_grouped_convolution_that_became_depthwise_keeps_its_groups() -> None:
    dense = trained(Grouped)
    whole = inspect_network(dense, EXAMPLE)
    one = {group.name: np.array([0]) for group in whole.groups}
    small = apply_plan(dense, make_plan(dense, whole.groups, {**one, "project": np.arange(3)}))
    found = inspect_network(small, EXAMPLE)
    assert {group.name for group in found.groups} == {"reduce", "project"}
    left = with_units_of(found, whole)
    assert {group.name for group in left.groups} == {"project"}
    assert "dense network" in left.refused["reduce"]
