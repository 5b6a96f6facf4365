"""What the rest of the code may ask of a layer, whatever its kind."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.graph.layer_shape import LayerShape
from pipeline.data.arrays import IntArray
from profiles.errors import ConfigError

Side = Literal["out", "in"]


@dataclass(frozen=True)
class Padding:
    """What a layer puts around its inputs [n, channels, ...], as `functional.pad` takes it."""

    widths: tuple[int, ...]
    """Before and after each axis, the last axis first."""
    mode: str = "constant"
    value: float = 0.0

    def around(self, inputs: Tensor) -> Tensor:
        """The padded inputs."""
        if not any(self.widths):
            return inputs
        if self.mode == "constant":
            return functional.pad(inputs, self.widths, value=self.value)
        return functional.pad(inputs, self.widths, self.mode)


@dataclass(frozen=True)
class LayerKind(ABC):
    """One layer whose channels can be removed, seen as a member of its kind."""

    TYPES: ClassVar[tuple[type[nn.Module], ...]]
    """torch's classes of this kind; their subclasses belong to it as well."""

    layer: nn.Module

    @property
    def channels_last(self) -> bool:
        """Whether channels are the last axis of inputs and outputs, rather than axis 1."""
        return False

    @classmethod
    def holds(cls, layer: nn.Module) -> bool:
        """Whether `layer` is of this kind."""
        return isinstance(layer, cls.TYPES)

    @property
    @abstractmethod
    def one_sided(self) -> bool:
        """Whether its outputs are the channels that it reads, each in its place.

        Plans then name the layer's outputs, and the inputs go with them.
        """

    @abstractmethod
    def channels(self, side: Side) -> int:
        """The number of output or input channels."""

    def tied_channels(self, side: Side) -> IntArray | None:
        """A label for each channel, [channels]: those with equal labels are removed together.

        None where every channel can be removed alone.
        """
        return None

    @abstractmethod
    def slice(self, side: Side, kept: Sequence[int]) -> None:
        """Keep these channels, sorted, of one side of the layer, in place.

        Raises ConfigError where tied channels are not kept or removed together.
        """

    @abstractmethod
    def silence_inputs(self, removed: Tensor) -> None:
        """Set to zero, in place, every weight that reads a channel of `removed` [inputs], bool."""

    @abstractmethod
    def silence_outputs(self, removed: Tensor) -> None:
        """Set to zero, in place, every filter that makes a channel of `removed` [outputs], bool."""


class Channelwise(LayerKind):
    """A layer that hands on as many channels as it reads: norms, activations with weights."""

    COUNT: ClassVar[str]
    """The attribute that holds the number of channels."""
    TENSORS: ClassVar[tuple[str, ...]]
    """Parameters and buffers of shape [channels]; any of them may be None."""

    @property
    def one_sided(self) -> bool:
        return True

    def channels(self, side: Side) -> int:
        return int(getattr(self.layer, self.COUNT))

    def slice(self, side: Side, kept: Sequence[int]) -> None:
        for name in self.TENSORS:
            _keep(self.layer, name, 0, torch.tensor(kept))
        setattr(self.layer, self.COUNT, len(kept))

    def silence_inputs(self, removed: Tensor) -> None:
        """Nothing: a removed channel reaches only itself, and nobody reads it there."""

    def silence_outputs(self, removed: Tensor) -> None:
        """Nothing: it has no filters."""


class FilterBank(LayerKind):
    """A layer whose outputs are filters over all its inputs, or over one group's."""

    COUNTS: ClassVar[Mapping[Side, str]]
    """The attributes that hold the number of channels of each side."""
    FIRST_AXIS: ClassVar[Side] = "out"
    """The side counted by axis 0 of the weight; axis 1 counts the other's within one group."""

    @property
    def weight(self) -> nn.Parameter:
        return self.layer.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """[outputs]"""
        bias: Tensor | None = getattr(self.layer, "bias", None)
        return bias

    @property
    def groups(self) -> int:
        """Each output reads the inputs of one group only; 1 where it reads all."""
        return int(getattr(self.layer, "groups", 1))

    @property
    def kernel_positions(self) -> int:
        """The positions that one filter reads: 9 of a 3 x 3 kernel."""
        return math.prod(self.weight.shape[2:])

    @property
    def one_sided(self) -> bool:
        """Depthwise: every output reads the one input channel of its place."""
        return self.groups == self.channels("in") == self.channels("out") > 1

    def channels(self, side: Side) -> int:
        return int(getattr(self.layer, self.COUNTS[side]))

    def tied_channels(self, side: Side) -> IntArray | None:
        """The weight has one axis for the places within all groups: a place goes from each."""
        if self.groups == 1 or self.one_sided:
            return None
        channels = self.channels(side)
        return np.arange(channels) % (channels // self.groups)

    def slice(self, side: Side, kept: Sequence[int]) -> None:
        index = torch.tensor(kept)
        both = self.one_sided
        if both or side == self.FIRST_AXIS:
            _keep(self.layer, "weight", 0, index)
        else:
            _keep(self.layer, "weight", 1, self._places_within_group(side, index))
        if both or side == "out":
            _keep(self.layer, "bias", 0, index)
        for name in (*self.COUNTS.values(), "groups") if both else (self.COUNTS[side],):
            setattr(self.layer, name, len(kept))

    def silence_inputs(self, removed: Tensor) -> None:
        if self.one_sided:
            return  # nobody reads what the removed channels make here
        with torch.no_grad():
            if self.FIRST_AXIS == "in":
                self.weight[removed] = 0
            else:
                self.weight[:, removed[: len(removed) // self.groups]] = 0

    def silence_outputs(self, removed: Tensor) -> None:
        with torch.no_grad():
            if self.FIRST_AXIS == "out" or self.one_sided:
                self.weight[removed] = 0
            else:
                self.weight[:, removed[: len(removed) // self.groups]] = 0
            if self.bias is not None:
                self.bias[removed] = 0

    def macs(self, inputs: Tensor, outputs: Tensor) -> int:
        """Multiply-accumulates of one call; 1 MAC = 2 FLOPs.

        Every value of the side that axis 0 of the weight counts meets one filter.
        """
        met = outputs if self.FIRST_AXIS == "out" else inputs
        return met.numel() * self.weight[0].numel()

    @abstractmethod
    def shape(self, inputs: Tensor) -> LayerShape:
        """What the layer is to a runtime on inputs of this size, which are of one sample."""

    def filters(self, values: Tensor) -> Tensor:
        """The weight, or anything of its shape, as [outputs, inputs / groups * kernel]."""
        return values.reshape(len(values), -1)

    def at_weights(self, by_output: Tensor) -> Tensor:
        """A value of each output channel, in a shape that multiplies the weight."""
        return by_output.reshape(-1, *[1] * (self.weight.dim() - 1))

    def _places_within_group(self, side: Side, kept: Tensor) -> Tensor:
        """The places of `kept` on axis 1 of the weight, the same in every group."""
        size = self.channels(side) // self.groups
        places = torch.tensor(sorted({int(channel) % size for channel in kept}))
        if len(places) * self.groups != len(kept):
            raise ConfigError("the plan keeps different channels in the groups of one convolution")
        return places


class LinearMap(FilterBank):
    """A filter bank as rows x weight: what each output position reads, times one matrix.

    Rows are taken at sampled positions: `chosen` is [samples, n], flat indices into `positions`.
    """

    def positions(self, outputs: Tensor) -> tuple[int, ...]:
        """The shape of an output without samples and channels: pixels, or tokens."""
        return tuple(outputs.shape[1:-1] if self.channels_last else outputs.shape[2:])

    def output_rows(self, outputs: Tensor, chosen: Tensor) -> Tensor:
        """Rows [samples * n, channels] of an output, or of anything of its shape."""
        if self.channels_last:
            flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
        else:
            flat = outputs.flatten(2).transpose(1, 2)
        return rows_at(flat, chosen.to(outputs.device))

    @abstractmethod
    def input_rows(
        self,
        inputs: Tensor,
        positions: tuple[int, ...],
        chosen: Tensor,
        padding: Padding | None = None,
    ) -> Tensor:
        """Rows [groups, samples * n, columns], of what each output position reads.

        `padding` is what the layer pads where its attributes do not say it.
        """

    @abstractmethod
    def matrix_of(self, weight: Tensor) -> Tensor:
        """A weight of the layer as [groups, outputs / groups, columns]."""

    @abstractmethod
    def weight_of(self, matrix: Tensor) -> Tensor:
        """The weight that `matrix_of` gives as `matrix`."""

    @abstractmethod
    def applied(
        self, inputs: Tensor, weight: Tensor, bias: Tensor, padding: Padding | None = None
    ) -> Tensor:
        """The layer's output with another weight and bias, in their own shapes."""

    @abstractmethod
    def at_constant_input(self, means: Tensor) -> Tensor:
        """[outputs] of an input that is `means` [inputs] everywhere, bias and padding apart."""


def rows_at(values: Tensor, places: Tensor) -> Tensor:
    """The rows [samples * n, channels] of [samples, positions, channels] at `places`."""
    if values.is_contiguous():
        first = torch.arange(len(places), device=values.device)[:, None] * values.shape[1]
        return values.flatten(0, 1).index_select(0, (first + places).flatten())
    samples = torch.arange(len(places), device=values.device)[:, None]
    return values[samples, places].flatten(0, 1)


def _keep(layer: nn.Module, name: str, axis: int, kept: Tensor) -> None:
    value: Tensor | None = getattr(layer, name)
    if value is None:
        return
    part = value.detach().index_select(axis, kept.to(value.device)).clone()
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(part, requires_grad=value.requires_grad))
    else:
        setattr(layer, name, part)
