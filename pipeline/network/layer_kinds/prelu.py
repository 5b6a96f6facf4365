"""Activations that have a slope for each channel."""

from dataclasses import dataclass

from torch import nn

from pipeline.network.layer_kinds.kind import Channelwise


@dataclass(frozen=True)
class PRelu(Channelwise):
    """The weight is [channels]."""

    TYPES = (nn.PReLU,)
    COUNT = "num_parameters"
    TENSORS = ("weight",)

    layer: nn.PReLU
