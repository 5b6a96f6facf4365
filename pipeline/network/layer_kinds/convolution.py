"""Convolutions, in groups and depthwise ones included."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporters.graph.layer_shape import LayerShape
from pipeline.network.layer_kinds.kind import LinearMap, Padding, rows_at

CHUNK_SAMPLES = 64
"""Samples whose rows are taken at a time."""


def convolution_shape(
    layer: nn.modules.conv._ConvNd, inputs: Tensor, padding: tuple[int, ...]
) -> LayerShape:
    """What a convolution, transposed or not, is to a runtime; `padding` as ONNX has it."""
    return LayerShape(
        kind="transposed" if layer.transposed else "convolution",
        inputs=layer.in_channels,
        outputs=layer.out_channels,
        positions=tuple(inputs.shape[2:]),
        repeats=len(inputs),
        groups=layer.groups,
        kernel=layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=padding,
        output_padding=layer.output_padding if layer.transposed else (),
    )


@dataclass(frozen=True)
class Convolution(LinearMap):
    """The weight is [outputs, inputs / groups, *kernel]; columns are in the order kernel, input."""

    TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    COUNTS = {"out": "out_channels", "in": "in_channels"}

    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d

    @property
    def padding(self) -> Padding:
        """What the layer pads, as its attributes say."""
        mode = "constant" if self.layer.padding_mode == "zeros" else self.layer.padding_mode
        return Padding(tuple(self.layer._reversed_padding_repeated_twice), mode)

    def shape(self, inputs: Tensor) -> LayerShape:
        widths = self.padding.widths
        padding = (*widths[-2::-2], *widths[::-2])
        return convolution_shape(self.layer, inputs, padding)

    def input_rows(
        self,
        inputs: Tensor,
        positions: tuple[int, ...],
        chosen: Tensor,
        padding: Padding | None = None,
    ) -> Tensor:
        own = padding or self.padding
        pairs = zip(inputs.split(CHUNK_SAMPLES), chosen.split(CHUNK_SAMPLES), strict=True)
        rows = [self._patches(own.around(part), positions, places) for part, places in pairs]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def _patches(self, padded: Tensor, positions: tuple[int, ...], chosen: Tensor) -> Tensor:
        layer = self.layer
        starts = torch.unravel_index(chosen, positions)
        offsets = list(itertools.product(*map(range, layer.kernel_size)))
        read = []
        for offset in offsets:
            place = torch.zeros_like(chosen)
            axes = zip(starts, layer.stride, offset, layer.dilation, padded.shape[2:], strict=True)
            for start, stride, step, dilation, size in axes:
                place = place * size + start * stride + step * dilation
            read.append(place)
        places = torch.stack(read, 2).flatten(1).to(padded.device)  # [samples, n * kernel]
        flat = padded.flatten(2).transpose(1, 2)
        if 2 * places.shape[1] > flat.shape[1]:  # much is read: once in order is quicker
            flat = flat.contiguous()
        rows = rows_at(flat, places).reshape(chosen.numel(), len(offsets), layer.groups, -1)
        return rows.permute(2, 0, 1, 3).reshape(layer.groups, chosen.numel(), -1)

    def matrix_of(self, weight: Tensor) -> Tensor:
        grouped = weight.reshape(self.groups, -1, weight.shape[1], weight[0, 0].numel())
        return grouped.transpose(2, 3).flatten(2)

    def weight_of(self, matrix: Tensor) -> Tensor:
        shape = self.weight.shape
        return matrix.reshape(*matrix.shape[:2], -1, shape[1]).transpose(2, 3).reshape(shape)

    def applied(
        self, inputs: Tensor, weight: Tensor, bias: Tensor, padding: Padding | None = None
    ) -> Tensor:
        layer = self.layer
        if padding is None:
            outputs: Tensor = layer._conv_forward(inputs, weight, bias)
            return outputs
        none = [0] * len(layer.stride)
        sizes = (layer.stride, none, layer.dilation, False, none, layer.groups)
        return torch.convolution(padding.around(inputs), weight, bias, *sizes)

    def at_constant_input(self, means: Tensor) -> Tensor:
        weight = self.weight.detach()
        split = weight.flatten(2).sum(2).reshape(self.groups, -1, weight.shape[1])
        return (split @ means.reshape(self.groups, -1, 1)).flatten()
