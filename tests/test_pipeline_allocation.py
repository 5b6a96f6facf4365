"""From a MACs target to channel counts: monotone, aligned, at or under the target."""

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, trained
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.allocation import counts_at, counts_for_macs, macs_model
from pipeline.allocators.table import PRESETS, Row, Table
from pipeline.allocators.uniform import Uniform
from pipeline.groups import Group, find_groups, make_plan
from pipeline.plan import apply_plan
from profiles.errors import StageError

EXAMPLE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def group(name: str, size: int, width: int = 1) -> Group:
    return Group(name, size, size * width, ())


def counted_macs(network: nn.Module) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(EXAMPLE)
    return counter.get_total_flops() // 2


MODELS = ("resnet18", "mobilenet_v2", "densenet121", "resnext50_32x4d", "squeezenet1_1")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_the_model_counts_what_torch_counts_on_the_pruned_network(name: str, ratio: float) -> None:
    network = torchvision.models.get_model(name, weights=None).eval()
    groups = find_groups(network, EXAMPLE).groups
    model = macs_model(network, EXAMPLE)
    counts = counts_at(Uniform(), groups, ratio, multiple=1, floor=1)
    kept = {g.name: np.arange(counts[g.name]) for g in groups}
    pruned = apply_plan(network, make_plan(network, groups, kept))
    dense = {g.name: g.size for g in groups}
    assert model.total(groups, dense) == counted_macs(network)
    assert model.total(groups, counts) == counted_macs(pruned)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("ratio", [0.9, 0.6, 0.4])
def test_a_target_is_met_by_the_largest_network_on_the_path(
    kind: type[nn.Module], ratio: float
) -> None:
    network = trained(kind)
    example = torch.zeros(1, 3, 8, 8)
    groups = find_groups(network, example).groups
    model = macs_model(network, example)
    limit = ratio * model.total(groups, {g.name: g.size for g in groups})
    counts = counts_for_macs(Uniform(), groups, model, limit, multiple=1, floor=1)
    assert model.total(groups, counts) <= limit
    knobs = np.linspace(0, 1, 400)
    path = [counts_at(Uniform(), groups, float(knob), 1, 1) for knob in knobs]
    fitting = [model.total(groups, at) for at in path if model.total(groups, at) <= limit]
    assert model.total(groups, counts) >= max(fitting)


def test_a_target_beyond_reach_says_how_far_it_goes() -> None:
    network = trained(NETWORKS[0])
    example = torch.zeros(1, 3, 8, 8)
    groups = find_groups(network, example).groups
    model = macs_model(network, example)
    with pytest.raises(StageError, match=r"no less than 0\.\d+ of dense"):
        counts_for_macs(Uniform(), groups, model, 1.0, multiple=2, floor=2)


sizes = st.lists(st.integers(1, 512), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(sizes, st.sampled_from([1, 4, 8, 16]), st.integers(1, 64), st.data())
def test_counts_fall_with_the_knob_and_respect_floor_and_multiple(
    widths: list[int], multiple: int, floor: int, data: st.DataObject
) -> None:
    groups = [group(str(i), width) for i, width in enumerate(widths)]
    low, high = sorted(data.draw(st.tuples(*[st.floats(0, 1)] * 2)))
    more = counts_at(Uniform(), groups, low, multiple, floor)
    less = counts_at(Uniform(), groups, high, multiple, floor)
    for g in groups:
        assert 1 <= less[g.name] <= more[g.name] <= g.size
        assert less[g.name] >= min(floor, g.size)
        aligned = less[g.name] % multiple == 0
        assert aligned or less[g.name] in (g.size, min(floor, g.size), 1)


def test_the_multiple_counts_channels_not_units() -> None:
    wide = group("grouped", 16, width=4)
    assert counts_at(Uniform(), [wide], 0.4, multiple=8, floor=8) == {"grouped": 10}
    assert counts_at(Uniform(), [wide], 1.0, multiple=8, floor=8) == {"grouped": 2}


def test_a_table_takes_the_first_row_that_matches_and_scales_all_alike() -> None:
    network = trained(NETWORKS[1])
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    table = Table(
        rows=(
            Row(layers="inner.0", pruning_ratio=0.5),
            Row(layers="inner.*", pruning_ratio=0.25),
        )
    )
    ratios = {g.name: table.ratio(g, table.knob() or 0) for g in groups}
    assert ratios == {"stem": 0.0, "inner.0": 0.5, "inner.1": 0.25}
    halved = {g.name: table.ratio(g, (table.knob() or 0) / 2) for g in groups}
    assert halved == {"stem": 0.0, "inner.0": 0.25, "inner.1": 0.125}


@pytest.mark.parametrize(
    ("preset", "model", "groups"),
    [
        ("resnet50-47.7", "resnet50", {0.0: 1, 0.25: 4, 0.40: 32}),
        ("mobilenet_v2-54.2", "mobilenet_v2", {0.20: 1, 0.35: 24}),
        ("vgg19-87.5", "vgg19_bn", {0.0: 2, 0.60: 4, 0.65: 8, 0.70: 4}),
    ],
)
def test_the_published_tables_fit_the_networks_they_are_for(
    preset: str, model: str, groups: dict[float, int]
) -> None:
    network = torchvision.models.get_model(model, weights=None).eval()
    table = Table.model_validate({"preset": preset})
    ratios = [table.ratio(g, table.knob() or 0) for g in find_groups(network, EXAMPLE).groups]
    assert Counter(round(ratio, 6) for ratio in ratios) == groups


def test_every_preset_is_reachable_by_name() -> None:
    for preset in PRESETS:
        assert Table.model_validate({"preset": preset}).knob() is not None
