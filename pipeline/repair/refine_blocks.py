"""A block's layers refined together, so that what they add up to is what the dense network has."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from pipeline.layers.folded_layer import Folded
from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import output_rows
from pipeline.network.layer_kinds import linear_map
from pipeline.repair.ridge import relative_error

LEARNING_RATE = 0.02
"""Of Adam, relative to the root mean square of each weight."""
BIAS_RATE = 0.3
"""The same for biases, relative to the mean of their absolute values, times the rate above."""
BATCH_SAMPLES = 25


@dataclass(frozen=True)
class Block:
    """Layers that read one another's activated outputs, up to a sum."""

    sites: Sequence[Site]
    layers: Sequence[Folded]
    inputs: Tensor
    """[samples, ...]: what the first layer reads."""
    other: Tensor
    """[samples * n, outputs]: rows of what the last layer's output is added to."""
    target: Tensor
    """[samples * n, outputs]: the dense network's sum."""
    positions: Tensor
    """[samples, n]: the positions of the rows."""

    def error(self, weights: Sequence[Tensor], start: int, stop: int) -> Tensor:
        """Mean squared error behind the activation on some of the samples."""
        got, wanted = self._sums(weights, start, stop)
        limits = self.sites[-1].range
        return (got.clamp(*limits) - wanted.clamp(*limits)).square().mean()

    def relative(self, weights: Sequence[Tensor], start: int, stop: int) -> float:
        got, wanted = self._sums(weights, start, stop)
        return relative_error(got, wanted, self.sites[-1].range)

    def outputs(self, weights: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """What each layer gives, before its activation."""
        value, found = self.inputs[start:stop], []
        pairs = zip(self.sites, self.layers, weights[::2], weights[1::2], strict=True)
        for site, folded, weight, bias in pairs:
            kind = linear_map(folded.layer)
            found.append(kind.applied(value, weight, bias, site.padding))
            value = found[-1].clamp(*site.range)
        return found

    def _sums(self, weights: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
        positions = self.positions[start:stop]
        last = output_rows(self.layers[-1].layer, self.outputs(weights, start, stop)[-1], positions)
        first, end = (samples * positions.shape[1] for samples in (start, stop))
        return last + self.other[first:end], self.target[first:end]


def refine(block: Block, steps: int, fitted: int) -> list[Tensor] | None:
    """Weight and bias of each layer, all folded; None where it is better as it was.

    `steps` of Adam on the first `fitted` samples, in turn; the others judge. No labels, and
    nothing but this block: as block reconstruction does for quantisation (BRECQ, arXiv
    2102.05426).
    """
    before = [part for folded in block.layers for part in _start(folded)]
    weights = [part.clone().requires_grad_() for part in before]
    rates = [_rate(part, index % 2 == 1) for index, part in enumerate(before)]
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)],
        betas=(0.9, 0.99),
    )
    size = min(BATCH_SAMPLES, fitted)
    turns = fitted // size
    with torch.enable_grad():
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + cos(pi * step / steps))
            start = step % turns * size
            loss = block.error(weights, start, start + size)
            optimizer.zero_grad()
            loss.backward()
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
