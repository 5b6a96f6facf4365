"""A copy of a network that keeps tensors which it has computed."""

import copy

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
