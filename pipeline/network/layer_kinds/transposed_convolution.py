"""Transposed convolutions, in groups and depthwise ones included."""

from dataclasses import dataclass

from torch import Tensor, nn

from exporters.graph.layer_shape import LayerShape
from pipeline.network.layer_kinds.convolution import convolution_shape
from pipeline.network.layer_kinds.kind import FilterBank


@dataclass(frozen=True)
class TransposedConvolution(FilterBank):
    """The weight is [inputs, outputs / groups, *kernel]."""

    TYPES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    COUNTS = {"out": "out_channels", "in": "in_channels"}
    FIRST_AXIS = "in"

    layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

    def shape(self, inputs: Tensor) -> LayerShape:
        padding = tuple(map(int, self.layer.padding)) * 2
        return convolution_shape(self.layer, inputs, padding)

    def filters(self, values: Tensor) -> Tensor:
        inputs, per_group = values.shape[:2]
        split = values.reshape(self.groups, inputs // self.groups, per_group, -1)
        return split.transpose(1, 2).reshape(self.channels("out"), -1)

    def at_weights(self, by_output: Tensor) -> Tensor:
        inputs = self.channels("in")
        split = by_output.reshape(self.groups, 1, -1)
        spread = split.expand(-1, inputs // self.groups, -1)
        return spread.reshape(inputs, -1, *[1] * (self.weight.dim() - 2))
