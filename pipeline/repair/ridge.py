"""Ridge regression of a layer's weights towards its own, aware of the activation that follows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.layers.torch_calls import UNBOUNDED, Range

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried, times the mean of the Gram matrix's diagonal; the held-out rows choose."""
ALTERNATIONS = 2
CHUNK_ROWS = 8192
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


def solve(problem: Problem, fitted: int) -> Solution:
    """Least squares on the first `fitted` rows; the others choose the ridge and judge."""
    fit, held = problem.part(0, fitted), problem.part(fitted, len(problem.target))
    gram = _gram(fit)
    wanted = fit.target if fit.other is None else fit.target - fit.other
    right, mean = _right(fit, gram, wanted)
    tried = [(_ridge(fit, gram, right, mean, ridge), ridge) for ridge in RIDGES]
    (weight, bias), ridge = min(tried, key=lambda one: error(held, *one[0]))
    found = [(weight, bias)]
    if fit.range != UNBOUNDED:
        for _ in range(ALTERNATIONS):
            right, mean = _right(fit, gram, _beyond(fit, *found[-1]))
            found.append(_ridge(fit, gram, right, mean, ridge))
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
    for chunk in inputs.split(CHUNK_ROWS, 1):
        centred = chunk - mean[:, None]
        moments += centred.transpose(1, 2) @ centred
    return _Gram(moments, mean)


def _right(problem: Problem, gram: _Gram, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The right-hand side [groups, columns, outputs / groups], and the mean that was wanted."""
    groups, outputs, columns = problem.weight.shape
    mean = wanted.mean(0) if problem.shifts else wanted.new_zeros(wanted.shape[1])
    right = gram.moments.new_zeros(groups, columns, outputs)
    for chunk, goal in zip(
        problem.inputs.split(CHUNK_ROWS, 1), wanted.split(CHUNK_ROWS), strict=True
    ):
        centred = (goal - mean).reshape(-1, groups, outputs).transpose(0, 1)
        right += (chunk - gram.mean[:, None]).transpose(1, 2) @ centred
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


def _beyond(problem: Problem, weight: Tensor, bias: Tensor) -> Tensor:
    """The target for the layer's own output; beyond the limits what is predicted there."""
    low, high = problem.range
    got = _sum(problem, weight, bias)
    wanted = torch.where(problem.target <= low, got.clamp(max=low), problem.target)
    wanted = torch.where(problem.target >= high, got.clamp(min=high), wanted)
    return wanted if problem.other is None else wanted - problem.other
