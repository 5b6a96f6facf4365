"""Ridge regression of a layer's weights towards its own, aware of the activation that follows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from pipeline.layers.torch_calls import UNBOUNDED, Range

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried, times the mean of the Gram matrix's diagonal; the held-out rows choose."""
ALTERNATIONS = 2
"""Times that the target behind an activation is set anew."""
CHUNK_ROWS = 4096
"""Rows that are multiplied at a time: what is made of them is small and its memory used again."""
SMALLEST = 1e-12
"""A variance or a mean of squares below this is none."""


@dataclass(frozen=True)
class Problem:
    """Find weights [groups, outputs / groups, columns] and a bias [outputs] for a layer.

    So that, between the limits of `range`, inputs x weight + bias + other is the target.
    """

    inputs: Tensor
    """[groups, rows, columns]"""
    target: Tensor
    """[rows, outputs]"""
    other: Tensor | None
    """[rows, outputs]: what the layer's output is added to."""
    range: Range
    weight: Tensor
    bias: Tensor
    """What the layer has now."""
    shifts: bool
    """Whether it has a place for a bias."""

    def chunks(self) -> "Iterator[Problem]":
        """The same, some rows at a time."""
        for start in range(0, len(self.target), CHUNK_ROWS):
            yield self.part(start, min(start + CHUNK_ROWS, len(self.target)))

    def part(self, start: int, stop: int) -> "Problem":
        """The same on the rows from `start` to before `stop`."""
        return replace(
            self,
            inputs=self.inputs[:, start:stop],
            target=self.target[start:stop],
            other=None if self.other is None else self.other[start:stop],
        )


@dataclass(frozen=True)
class Solution:
    """Weights, bias, and their error on the held-out rows beside that of the layer as it was."""

    weight: Tensor
    bias: Tensor
    error_before: float
    error_after: float

    @property
    def better(self) -> bool:
        return self.error_after < self.error_before


@dataclass(frozen=True)
class _Gram:
    """Centred second moments, [groups, columns, columns] double, and means [groups, columns]."""

    moments: Tensor
    mean: Tensor


def solve(problem: Problem, fitted: int, alternations: int = ALTERNATIONS) -> Solution:
    """Least squares on the first `fitted` rows; the others choose the ridge and judge."""
    fit, held = problem.part(0, fitted), problem.part(fitted, len(problem.target))
    gram = _gram(fit)
    right, mean = _right(fit, gram, _whole)
    tried = [(_ridge(fit, gram, right, mean, ridge), ridge) for ridge in RIDGES]
    (weight, bias), ridge = min(tried, key=lambda one: error(held, *one[0]))
    found = [(weight, bias)]
    if fit.range != UNBOUNDED:
        for _ in range(alternations):
            right, mean = _right(fit, gram, partial(_beyond, weight=weight, bias=bias))
            weight, bias = _ridge(fit, gram, right, mean, ridge)
            found.append((weight, bias))
    after, (weight, bias) = min(
        ((error(held, *one), one) for one in found), key=lambda pair: pair[0]
    )
    return Solution(weight, bias, error(held, problem.weight, problem.bias), after)


def error(problem: Problem, weight: Tensor, bias: Tensor) -> float:
    """Mean squared error behind the activation, relative to the target's variance."""
    return relative_error(_sum(problem, weight, bias), problem.target, problem.range)


def relative_error(got: Tensor, target: Tensor, limits: Range) -> float:
    """Mean squared difference behind an activation, relative to the target's variance."""
    wanted = target.clamp(*limits)
    spread = (wanted - wanted.mean(0)).square().mean()
    return float((got.clamp(*limits) - wanted).square().mean() / spread.clamp(min=SMALLEST))


def _sum(problem: Problem, weight: Tensor, bias: Tensor) -> Tensor:
    """What the layer adds up to, [rows, outputs]."""
    outputs = (problem.inputs @ weight.transpose(1, 2)).transpose(0, 1).flatten(1) + bias
    return outputs if problem.other is None else outputs + problem.other


def _gram(problem: Problem) -> _Gram:
    """A layer without a place for a bias is fitted through the origin."""
    inputs = problem.inputs
    mean = inputs.mean(1) if problem.shifts else inputs.new_zeros(inputs.shape[0], inputs.shape[2])
    moments = inputs.new_zeros(len(inputs), *[inputs.shape[2]] * 2, dtype=torch.float64)
    for chunk in problem.chunks():
        centred = chunk.inputs - mean[:, None]
        moments += centred.transpose(1, 2) @ centred
    return _Gram(moments, mean)


def _right(
    problem: Problem, gram: _Gram, wanted: Callable[[Problem], Tensor]
) -> tuple[Tensor, Tensor]:
    """The right-hand side [groups, columns, outputs / groups], and the mean that is wanted.

    `wanted` gives the layer's own outputs for some rows. They are nearly centred by the first of
    them, so that little is lost in single precision, and the rest is made good with the means.
    """
    groups, outputs, columns = problem.weight.shape
    right = gram.moments.new_zeros(groups, columns, outputs)
    total = gram.moments.new_zeros(groups, outputs)
    near: Tensor | None = None
    for chunk in problem.chunks():
        goal = wanted(chunk)
        if near is None:
            near = goal.mean(0) if problem.shifts else torch.zeros_like(goal[0])
        goal = (goal - near).reshape(-1, groups, outputs).transpose(0, 1)
        right += chunk.inputs.transpose(1, 2) @ goal
        total += goal.sum(1)
    assert near is not None
    if not problem.shifts:
        return right, near
    right -= gram.mean[:, :, None] * total[:, None]
    mean = near + (total / len(problem.target)).flatten().to(near.dtype)
    return right, mean


def _ridge(
    problem: Problem, gram: _Gram, right: Tensor, mean: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """The weights of least squares plus `ridge` times their distance from those there are."""
    diagonal = gram.moments.diagonal(dim1=1, dim2=2)
    scale = (diagonal.mean(1).clamp(min=SMALLEST) * ridge)[:, None]
    left = gram.moments + torch.diag_embed(scale.expand_as(diagonal))
    pull = scale[:, None] * problem.weight.double().transpose(1, 2)
    factor, failed = torch.linalg.cholesky_ex(left)
    if bool(failed.any()):  # too close to singular for this ridge: nothing better than before
        return problem.weight, problem.bias
    solved = torch.cholesky_solve(right + pull, factor)
    weight = solved.transpose(1, 2).to(problem.weight.dtype)
    return weight, mean - (weight @ gram.mean[:, :, None]).flatten()


def _whole(problem: Problem) -> Tensor:
    """The target for the layer's own output."""
    return problem.target if problem.other is None else problem.target - problem.other


def _beyond(problem: Problem, weight: Tensor, bias: Tensor) -> Tensor:
    """The target for the layer's own output; beyond the limits what is predicted there."""
    low, high = problem.range
    got = _sum(problem, weight, bias)
    wanted = problem.target
    if low > -inf:
        wanted = torch.where(problem.target <= low, got.clamp(max=low), wanted)
    if high < inf:
        wanted = torch.where(problem.target >= high, got.clamp(min=high), wanted)
    return wanted if problem.other is None else wanted - problem.other
