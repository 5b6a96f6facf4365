"""LayerStats: what a criterion may know of one layer, as plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.data.arrays import Float64
from pipeline.scoring.elimination import Elimination

Need = Literal["gradients", "activations", "relevance", "moments"]
Filter = Literal["scale", "scale_shift", "own", "folded"]
Place = Literal["activation", "output", "norm"]
Accumulation = Literal["mean", "sum", "absolute"]

NOTHING: Float64 = np.empty(0)
NOTHING.flags.writeable = False


def _nothing() -> Float64:
    return NOTHING


@dataclass(frozen=True)
class Gradient:
    """A gradient of the loss over the calibration samples; empty when not asked for."""

    mean: Float64 = field(default_factory=_nothing)
    """The mean over samples."""
    absolute: Float64 = field(default_factory=_nothing)
    """The mean over batches of each batch's absolute value, by their samples."""

    def __bool__(self) -> bool:
        return bool(self.mean.size)


@dataclass(frozen=True)
class Norm:
    """The batch norm that reads a layer's output: u = scale * (c - mean) / deviation + shift."""

    scale: Float64
    shift: Float64
    mean: Float64
    deviation: Float64
    """The square root of the running variance and eps."""


@dataclass(frozen=True)
class LayerStats:
    """One convolution or linear layer with the batch norm and activation that follow it.

    x is its input, c its output, u what the activation sigma reads: batch norm's output, or c.
    Batch norm is in eval mode. What was not asked for is empty.
    """

    name: str
    weight: Float64
    """[out, fan-in]: the layer's own filters, fan-in = in / groups * kernel."""
    inputs: int
    """Its input channels: features of a linear layer."""
    groups: int = 1
    bias: Float64 = field(default_factory=_nothing)
    """[out], zeros without one."""

    # Seen in any pass of the network.
    norm: Norm | None = None

    # "gradients"
    batches: float = 0
    """Samples / samples of a whole batch: a smaller one counts as the part that it is."""
    weight_gradient: Gradient = Gradient()
    """[out, fan-in]"""
    bias_gradient: Gradient = Gradient()
    """[out], zeros without a bias."""
    scale_gradient: Gradient = Gradient()
    """[out], of the batch norm; empty without one."""
    shift_gradient: Gradient = Gradient()
    offsets: Mapping[Place, Gradient] = field(default_factory=dict)
    """[out]: dL/dD (Eq. 5 of arXiv 2507.14171) by the place of D: the sum over positions of
    dL/d(sigma(u)) * u, of dL/dc * c, of dL/du * u."""
    taylor: Float64 = field(default_factory=_nothing)
    """[out]: mean over samples of abs(sum over positions of dL/du * u)."""
    offset: Float64 = field(default_factory=_nothing)
    """[out]: mean over samples of abs(sum over positions of dL/du * (norm(F) * c - (u - b))),
    F the scale and b the shift of the batch norm, or the filter and the layer's own bias."""
    offset_per_position: Float64 = field(default_factory=_nothing)
    """[out]: the same with the absolute value of every position."""

    # "activations", over samples and positions
    input_mean: Float64 = field(default_factory=_nothing)
    """[in], as the next three."""
    input_variance: Float64 = field(default_factory=_nothing)
    input_abs_mean: Float64 = field(default_factory=_nothing)
    input_square_mean: Float64 = field(default_factory=_nothing)
    output_variance: Float64 = field(default_factory=_nothing)
    """[out]: of c; where there is a batch norm, the running variance it has learned of c."""

    # "moments"
    elimination: Elimination | None = None
    """Of the group that bears this layer's name."""

    # "relevance"
    relevance: Float64 = field(default_factory=_nothing)
    """[in]: mean over samples of the sum over positions of abs(R), R of `scoring.relevance`."""

    def filters(self, choice: Filter = "scale") -> Float64:
        """[out, n]: F of IPPRO; without a batch norm always the layer's own filters."""
        if self.norm is None or choice == "own":
            return self.weight
        if choice == "scale":
            return self.norm.scale[:, None]
        if choice == "scale_shift":
            return np.stack([self.norm.scale, self.norm.shift], 1)
        return self.weight * (self.norm.scale / self.norm.deviation)[:, None]

    def filter_gradients(
        self, choice: Filter = "scale", accumulation: Accumulation = "mean"
    ) -> Float64:
        """[out, n]: dL/dF."""
        if self.norm is None or choice in ("own", "folded"):
            own = self._accumulated(self.weight_gradient, accumulation)
            if self.norm is None or choice == "own":
                return own
            # dL/dW = dL/d(folded W) * scale / deviation; a scale of 0 folds to a filter of zeros.
            silent = self.norm.scale == 0
            factor = self.norm.deviation / np.where(silent, np.inf, self.norm.scale)
            return own * (np.abs(factor) if accumulation == "absolute" else factor)[:, None]
        scale = self._accumulated(self.scale_gradient, accumulation)
        if choice == "scale":
            return scale[:, None]
        return np.stack([scale, self._accumulated(self.shift_gradient, accumulation)], 1)

    def offset_gradients(
        self, place: Place = "activation", accumulation: Accumulation = "mean"
    ) -> Float64:
        """[out]: dL/dD."""
        return self._accumulated(self.offsets[place], accumulation)

    def weight_by_input(self) -> Float64:
        """[in, n]: all weights that read each input channel."""
        return self._split(self.weight).swapaxes(1, 2).reshape(self.inputs, -1)

    def at_weights(self, by_input: Float64) -> Float64:
        """A value of each input channel, [in], at every weight that reads it: [out, fan-in]."""
        split = self._split(self.weight)
        spread = by_input.reshape(self.groups, 1, -1, 1)
        return np.broadcast_to(spread, split.shape).reshape(self.weight.shape)

    def _split(self, by_output: Float64) -> Float64:
        """[groups, out / groups, in / groups, kernel]"""
        of_a_group = self.inputs // self.groups
        return by_output.reshape(self.groups, len(by_output) // self.groups, of_a_group, -1)

    def _accumulated(self, gradient: Gradient, accumulation: Accumulation) -> Float64:
        if accumulation == "absolute":
            return gradient.absolute
        return gradient.mean * self.batches if accumulation == "sum" else gradient.mean
