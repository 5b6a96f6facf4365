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


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, themselves: `state_dict` may be a network's own copy."""
    parameters = network.named_parameters(remove_duplicate=False)
    buffers = network.named_buffers(remove_duplicate=False)
    return {name: value.detach() for name, value in (*parameters, *buffers)}


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, by name."""
    return {name: value.clone() for name, value in tensors_of(network).items()}


@torch.no_grad()
def set_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave, in place.

    `load_state_dict` will not do: some networks, such as torchvision's MNASNet, refuse tensors
    without the versions of the modules that they came from.
    """
    for name, value in tensors_of(network).items():
        if name in state:  # some buffers are made by the first pass
            value.copy_(state[name])
