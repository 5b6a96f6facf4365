"""Which parameters are trained, and the others frozen for a while."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from torch import nn

from pipeline.network.layer_kinds import BatchNorm
from profiles.errors import ConfigError

NORMS = (
    *BatchNorm.TYPES,
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.SyncBatchNorm),
)


def trainable_names(network: nn.Module, which: Literal["all", "norm_bias_head"]) -> set[str]:
    """The names of the parameters to train.

    Raises ConfigError when the network has none of those asked for.
    """
    names = {name for name, value in network.named_parameters() if value.requires_grad}
    if which == "all":
        return names
    layers = dict(network.named_modules())
    heads = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)][-1:]
    few = set()
    for name in names:
        layer, _, own = name.rpartition(".")
        if own.endswith("bias") or layer in heads or isinstance(layers[layer], NORMS):
            few.add(name)
    if not few:
        raise ConfigError(
            'the network has no norm, bias or linear layer to train: set finetune.trainable = "all"'
        )
    return few


@contextlib.contextmanager
def others_frozen(network: nn.Module, names: set[str]) -> Iterator[None]:
    """Freeze all parameters but `names` for a while."""
    frozen = [p for name, p in network.named_parameters() if p.requires_grad and name not in names]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
