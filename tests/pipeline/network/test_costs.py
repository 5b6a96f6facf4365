"""The cost model: what torch counts on the pruned network itself."""

import numpy as np
import pytest
import torch
import torchvision
from networks import NETWORKS, trained
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.network.costs import Cost, macs_model
from pipeline.network.groups import find_groups, make_plan
from pipeline.network.plan import apply_plan

EXAMPLE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SMALL = torch.zeros(1, 3, 8, 8)


def counted(network: nn.Module, example: torch.Tensor) -> Cost:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(example)
    return Cost(counter.get_total_flops() // 2, sum(p.numel() for p in network.parameters()))


def model_matches(network: nn.Module, example: torch.Tensor, share: float) -> None:
    groups = find_groups(network, example).groups
    model = macs_model(network, example)
    counts = {g.name: max(1, round(share * g.size)) for g in groups}
    kept = {g.name: np.arange(counts[g.name]) for g in groups}
    pruned = apply_plan(network, make_plan(network, groups, kept))
    costs = model.over(groups)
    assert costs.at({g.name: g.size for g in groups}) == counted(network, example)
    assert costs.at(counts) == counted(pruned, example)
    assert model.total(groups, counts) == costs.at(counts).macs
    assert model.parameters(groups, counts) == costs.at(counts).parameters


MODELS = (
    "resnet18",
    "mobilenet_v2",
    "densenet121",
    "resnext50_32x4d",
    "squeezenet1_1",
    "efficientnet_b0",
)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_model_counts_what_torch_counts_on_the_pruned_network(name: str, share: float) -> None:
    model_matches(torchvision.models.get_model(name, weights=None).eval(), EXAMPLE, share)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_model_counts_every_kind_of_layer(kind: type[nn.Module]) -> None:
    model_matches(trained(kind), SMALL, 0.5)
