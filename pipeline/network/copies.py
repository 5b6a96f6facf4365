"""Copies of a network, and of its weights to go back to."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.network.nested_tensors import tensors_in


def copy_of(network: nn.Module) -> nn.Module:
    """A deep copy; torch refuses one where a module keeps a tensor that has a gradient's history.

    Such as a table of position biases from an earlier call: it is copied without that history.
    """
    known: dict[int, Tensor] = {}
    for module in network.modules():
        for value in tensors_in(vars(module)):
            if value.grad_fn is not None:
                known[id(value)] = value.detach().clone()
    return copy.deepcopy(network, known)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, by name."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def set_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave, in place.

    `load_state_dict` will not do: some networks, such as torchvision's MNASNet, refuse tensors
    without the versions of the modules that they came from.
    """
    for name, value in network.state_dict().items():
        value.copy_(state[name])
