"""The optimizer of one epoch, and what it remembers from one epoch to the next."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.train.settings import Settings

ADAM_SECOND_BETA = 0.99
"""The decay of Adam's second moment: faster than usual, since a brief training has few steps."""
USUAL_SIZE = 0.1
"""The root mean square taken for a tensor that is all zero, such as the bias of a new layer."""


def make_optimizer(
    network: nn.Module, settings: Settings, moments: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The optimizer of all trainable parameters, with the `moments` of the epochs before."""
    named = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            named.values(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    else:
        groups = [
            {"params": [value], "lr": settings.learning_rate * _root_mean_square(value)}
            for value in named.values()
        ]
        optimizer = torch.optim.Adam(groups, betas=(settings.momentum, ADAM_SECOND_BETA))
    for name, value in moments.items():
        parameter, _, part = name.rpartition("/")
        optimizer.state[named[parameter]][part] = value.clone()
    return optimizer


def moments_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """A copy of what the optimizer remembers, by "parameter/name"."""
    return {
        f"{name}/{part}": value.clone()
        for name, parameter in network.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _root_mean_square(values: Tensor) -> float:
    """The size of the values, or a usual one where they have not begun to move."""
    return float(values.detach().square().mean().sqrt()) or USUAL_SIZE
