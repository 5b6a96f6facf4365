"""Instance norms."""

from dataclasses import dataclass

from torch import nn

from pipeline.network.layer_kinds.kind import Channelwise


@dataclass(frozen=True)
class InstanceNorm(Channelwise):
    """Weight, bias and running statistics are [channels]; a channel is normed by itself."""

    TYPES = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    COUNT = "num_features"
    TENSORS = ("weight", "bias", "running_mean", "running_var")

    layer: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
