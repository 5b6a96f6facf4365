"""Batch norms."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.network.layer_kinds.kind import Channelwise


@dataclass(frozen=True)
class BatchNorm(Channelwise):
    """Weight, bias and running statistics are [channels]."""

    TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    COUNT = "num_features"
    TENSORS = ("weight", "bias", "running_mean", "running_var")

    layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

    @property
    def foldable(self) -> bool:
        """Whether it is, in eval mode, a scale and shift that the layer before it can take in."""
        return self.layer.affine and self.layer.running_var is not None

    def folded(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift [channels] of what reaches it, in eval mode, without `bias`."""
        layer = self.layer
        scale = layer.weight.detach() / (layer.get_buffer("running_var") + layer.eps).sqrt()
        shift = layer.bias.detach() + (bias - layer.get_buffer("running_mean")) * scale
        return scale, shift
