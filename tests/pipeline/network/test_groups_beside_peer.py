"""Torch-Pruning finds the same groups, where it can follow a network."""

import warnings

import pytest
import torch
import torch_pruning
import torchvision
from networks import Chain, Concat, Depthwise, Grouped, Residual, trained
from torch import Tensor, nn

from pipeline.network.groups import find_groups
from pipeline.network.layer_kinds import FILTER_BANKS, kind_of

Sides = frozenset[tuple[str, str]]


def groups_of_the_peer(network: nn.Module, example: Tensor) -> set[Sides]:
    """The layers and their sides that Torch-Pruning couples; the network's outputs among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(
            network,
            example,
            forward_fn=lambda whole, given: whole(given),
            output_transform=lambda output: [output],
            verbose=False,
        )
        found = list(graph.get_all_groups(root_module_types=FILTER_BANKS))
    names = {layer: name for name, layer in network.named_modules()}
    groups = set()
    for group in found:
        members = set()
        for item in group:
            layer = item.dep.target.module
            kind = kind_of(layer) if layer in names else None
            if kind is not None:
                reads = item.dep.handler.__name__ == "prune_in_channels"
                members.add((names[layer], "in" if reads and not kind.one_sided else "out"))
        groups.add(frozenset(members))
    return groups


def small(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = torchvision.models.get_model(name, num_classes=4)
        return network.eval()


@pytest.mark.parametrize(
    "network",
    [
        *(trained(kind) for kind in (Chain, Residual, Depthwise, Grouped, Concat)),
        *(small(name) for name in ("resnet18", "mobilenet_v2", "squeezenet1_1")),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_peer_couples_the_same_layers(network: nn.Module) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        example = torch.randn(2, 3, 48, 48)
    ours = {
        frozenset((member.layer, member.side) for member in group.members)
        for group in find_groups(network, example).groups
    }
    assert len(ours) > 1
    outputs = groups_of_the_peer(network, example) - ours
    assert len(outputs) == 1
