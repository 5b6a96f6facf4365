"""What a layer with weights is to a runtime: everything its time depends on but the values."""

import math
from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveInt

from profiles.spec import Spec

Side = Literal["out", "in"]
Pads = tuple[NonNegativeInt, ...]


class LayerShape(Spec):
    """A convolution, a transposed one, or a linear layer, on inputs of one size."""

    kind: Literal["convolution", "transposed", "linear"]
    inputs: PositiveInt
    outputs: PositiveInt
    positions: tuple[PositiveInt, ...]
    """The shape of an input without samples and channels: pixels, or tokens."""
    groups: PositiveInt = 1
    kernel: tuple[PositiveInt, ...] = ()
    stride: tuple[PositiveInt, ...] = ()
    dilation: tuple[PositiveInt, ...] = ()
    padding: Pads = ()
    """Before each axis, then after each, as ONNX has it."""
    output_padding: Pads = ()
    repeats: PositiveInt = 1
    """How often it runs at once for one sample: windows or tokens along the first axis."""

    @property
    def is_depthwise(self) -> bool:
        """Whether its outputs go with its inputs, each in its place."""
        return self.groups == self.inputs == self.outputs > 1

    def channels(self, side: Side) -> int:
        """The number of output or input channels."""
        return self.outputs if side == "out" else self.inputs

    def at(self, side: Side, channels: int) -> Self:
        """The same with another number of channels on one side; of a depthwise one, on both."""
        if self.is_depthwise:
            changed = {"inputs": channels, "outputs": channels, "groups": channels}
        else:
            changed = {"outputs" if side == "out" else "inputs": channels}
        return self.model_copy(update=changed)

    def weights(self) -> int:
        """The number of weights, biases not counted."""
        return self.outputs * self.inputs // self.groups * math.prod(self.kernel)

    def values(self, copies: int) -> int:
        """Of one input and of the outputs of all copies, of one sample, at most."""
        return self.repeats * math.prod(self.positions) * (self.inputs + copies * self.outputs)

    def macs(self) -> int:
        """Multiply-accumulates of one sample, where no pixel is lost at the edges."""
        strides = 1 if self.kind == "transposed" else math.prod(self.stride)
        return self.repeats * self.weights() * math.prod(self.positions) // strides
