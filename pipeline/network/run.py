"""Run the user's network and loss, and say clearly when they give something unusable."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.data.arrays import Targets
from pipeline.data.batches import check_labels
from pipeline.data.user_code import user_code
from profiles.errors import ConfigError, StageError

Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of outputs [n, ...] and targets [n, ...], a scalar."""


def compute_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def outputs_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """The network's output [n, ...]. Raises ConfigError when it is anything but one tensor."""
    with user_code("the network"):
        outputs = network(inputs)
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or len(outputs) != len(inputs):
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(
            f"the network must return one tensor [n, ...] for n = {len(inputs)}, found {found}"
        )
    return outputs


def loss_of(
    network: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Targets,
) -> Tensor:
    """The mean loss of a batch, a finite scalar.

    Raises ConfigError for labels beyond the network's outputs, StageError for a loss of NaN.
    """
    outputs = outputs_of(network, inputs)
    check_labels(targets, outputs.shape[1])
    with user_code("the loss"):
        value = loss(outputs, torch.from_numpy(targets).to(outputs.device))
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"the loss must be one number, found {found}")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise ConfigError("the loss must be computed from the outputs, so that it has a gradient")
    if not bool(torch.isfinite(value)):
        raise StageError(f"the loss is {value.item()}; lower the learning rate or check the data")
    return value
