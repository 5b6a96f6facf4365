"""A layer and the batch norm behind it as one linear map, read and written."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import columns, weight_of
from pipeline.network.plan import BATCH_NORMS, CONVOLUTIONS

SMALLEST_SCALE = 1e-3
"""A batch norm that scales by less is set to this when weights are written before it."""


@dataclass(frozen=True)
class Folded:
    """One layer of a network, with its batch norm if it has one."""

    layer: nn.Module
    norm: nn.Module | None

    def shifts(self) -> bool:
        """Whether there is a place for a bias."""
        return self.norm is not None or getattr(self.layer, "bias", None) is not None

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [outputs] of what the layer's weights alone give."""
        weight = self.layer.get_parameter("weight").detach()
        bias: Tensor | None = getattr(self.layer, "bias", None)
        shift = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        if self.norm is None:
            return weight.new_ones(len(weight)), shift
        assert isinstance(self.norm, BATCH_NORMS)
        deviation = (self.norm.get_buffer("running_var") + self.norm.eps).sqrt()
        scale = self.norm.weight.detach() / deviation
        mean = self.norm.get_buffer("running_mean")
        return scale, self.norm.bias.detach() + (shift - mean) * scale

    def weight(self) -> Tensor:
        """The folded weight as `columns` gives it, [groups, outputs / groups, columns]."""
        own = columns(self.layer, self.layer.get_parameter("weight").detach())
        return own * self.affine()[0].reshape(*own.shape[:2], 1)

    def write(self, weight: Tensor, bias: Tensor, rows: Tensor) -> None:
        """Make the map `weight` and `bias`.

        `rows` [groups, n, columns] are inputs of the layer: the batch norm's mean and variance
        become those of its input, so that it answers alike when it trains on.
        """
        with torch.no_grad():
            if self.norm is None:
                self.layer.get_parameter("weight").copy_(weight_of(self.layer, weight))
                if self.shifts():
                    self.layer.get_parameter("bias").copy_(bias)
                return
            assert isinstance(self.norm, BATCH_NORMS)
            scale, _ = self.affine()
            scale = torch.where(scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, scale)
            own = weight / scale.reshape(*weight.shape[:2], 1)
            self.layer.get_parameter("weight").copy_(weight_of(self.layer, own))
            outputs = (rows @ own.transpose(1, 2)).transpose(0, 1).flatten(1)
            variance, mean = torch.var_mean(outputs, 0)
            own_bias: Tensor | None = getattr(self.layer, "bias", None)
            shift = torch.zeros_like(mean) if own_bias is None else own_bias
            self.norm.get_buffer("running_var").copy_(variance)
            self.norm.get_buffer("running_mean").copy_(mean + shift)
            self.norm.weight.copy_(scale * (variance + self.norm.eps).sqrt())
            self.norm.bias.copy_(bias + mean * scale)


def folded(layers: dict[str, nn.Module], site: Site) -> Folded:
    """The layer of `site` with its batch norm."""
    return Folded(layers[site.layer], layers[site.norm] if site.norm else None)


def applied(layer: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layer's output with another weight and bias, in their own shapes."""
    if isinstance(layer, CONVOLUTIONS):
        outputs: Tensor = layer._conv_forward(inputs, weight, bias)
        return outputs
    return functional.linear(inputs, weight, bias)
