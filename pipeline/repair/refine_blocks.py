"""A block's layers refined together, so that what they add up to is what the dense network has."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi

import torch
from torch import Tensor

from pipeline.layers.folded_layer import Folded
from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import output_rows
from pipeline.network.layer_kinds import linear_map
from pipeline.network.spool import Between, Samples
from pipeline.repair.ridge import relative_error

LEARNING_RATE = 0.02
"""Of Adam, relative to the root mean square of each weight."""
BIAS_RATE = 0.3
"""The same for biases, relative to the mean of their absolute values, times the rate above."""
BATCH_SAMPLES, SMALL_BATCH_SAMPLES = 25, 12
"""In a step; the latter where samples are few: as many steps then need half of the passes."""
MOST_PASSES = 5
"""Over the fitted samples: with few of them, more steps only learn them by heart."""
LARGEST_BYTES = 2**24
"""Of what a layer reads for the samples that run at a time; memory of this size is used again."""


@dataclass(frozen=True)
class Block:
    """Layers that read one another's activated outputs, up to a sum."""

    sites: Sequence[Site]
    layers: Sequence[Folded]
    inputs: Samples
    """[samples, ...]: what the first layer reads."""
    other: Tensor
    """[samples * n, outputs]: rows of what the last layer's output is added to."""
    target: Tensor
    """[samples * n, outputs]: the dense network's sum."""
    positions: Tensor
    """[samples, n]: the positions of the rows."""

    def error(self, weights: Sequence[Tensor], part: Between) -> Tensor:
        """Mean squared error behind the activation on some of the samples."""
        rows = self._rows(part)
        got, limits = self._sum(weights, part), self.sites[-1].range
        return (got.clamp(*limits) - self.target[rows].clamp(*limits)).square().mean()

    def relative(self, weights: Sequence[Tensor], start: int, stop: int) -> float:
        got = torch.cat([self._sum(weights, part) for part in self.parts(start, stop)])
        wanted = self.target[self._rows(slice(start, stop))]
        return relative_error(got, wanted, self.sites[-1].range)

    def reads(self, number: int, weights: Sequence[Tensor], part: Between) -> Tensor:
        """What layer `number` of the block reads for some of the samples."""
        value = self.inputs[part]
        if value.dim() == 4:  # convolutions train faster so
            value = value.contiguous(memory_format=torch.channels_last)
        for place in range(number):
            value = self._output(place, weights, value).clamp(*self.sites[place].range)
        return value

    def parts(self, start: int, stop: int) -> list[Between]:
        """The samples from `start` to before `stop`, as many at a time as run best."""
        size = max(1, min(BATCH_SAMPLES, LARGEST_BYTES // self._largest))
        return [slice(edge, min(edge + size, stop)) for edge in range(start, stop, size)]

    @cached_property
    def _largest(self) -> int:
        """Bytes of the most that a layer of the block reads for one sample."""
        weights = [part for folded in self.layers for part in _start(folded)]
        with torch.no_grad():
            values = [self.reads(n, weights, slice(0, 1)) for n in range(len(self.layers))]
        return max(value.nbytes for value in values)

    def _output(self, number: int, weights: Sequence[Tensor], value: Tensor) -> Tensor:
        """What layer `number` makes of `value`, before its activation."""
        weight, bias = weights[2 * number : 2 * number + 2]
        kind = linear_map(self.layers[number].layer)
        return kind.applied(value, weight, bias, self.sites[number].padding)

    def _sum(self, weights: Sequence[Tensor], part: Between) -> Tensor:
        """Rows of what the block adds up to."""
        last = len(self.layers) - 1
        output = self._output(last, weights, self.reads(last, weights, part))
        rows = output_rows(self.layers[last].layer, output, self.positions[part])
        return rows + self.other[self._rows(part)]

    def _rows(self, part: Between) -> Between:
        width = self.positions.shape[1]
        return slice(part.start * width, part.stop * width)


def refine(block: Block, steps: int, fitted: int) -> list[Tensor] | None:
    """Weight and bias of each layer, all folded; None where it is better as it was.

    `steps` of Adam, or as many as MOST_PASSES over the first `fitted` samples have, on these in
    turn; the others judge. No labels, and nothing but this block: as block reconstruction does
    for quantisation (BRECQ, arXiv 2102.05426).
    """
    before = [part for folded in block.layers for part in _start(folded)]
    weights = [part.clone().requires_grad_() for part in before]
    rates = [_rate(part, index % 2 == 1) for index, part in enumerate(before)]
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)],
        betas=(0.9, 0.99),
    )
    few = MOST_PASSES * fitted < steps * BATCH_SAMPLES
    size = min(SMALL_BATCH_SAMPLES if few else BATCH_SAMPLES, fitted)
    turns = fitted // size
    steps = min(steps, MOST_PASSES * turns)
    with torch.enable_grad():
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + cos(pi * step / steps))
            start = step % turns * size
            optimizer.zero_grad()
            for part in block.parts(start, start + size):
                share = (part.stop - part.start) / size
                (block.error(weights, part) * share).backward()
            optimizer.step()
    after = [weight.detach() for weight in weights]
    held = (fitted, len(block.inputs))
    return after if block.relative(after, *held) < block.relative(before, *held) else None


def _start(folded: Folded) -> tuple[Tensor, Tensor]:
    return linear_map(folded.layer).weight_of(folded.weight()), folded.affine()[1]


def _rate(values: Tensor, bias: bool) -> float:
    if bias:
        return LEARNING_RATE * BIAS_RATE * float(values.abs().mean())
    return LEARNING_RATE * float(values.square().mean().sqrt())
