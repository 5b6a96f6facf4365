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
STILL = 1e-5
"""A column whose deviation is less than this part of its mean varies by rounding alone."""


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


def solve(problem: Problem, fitted: int, alternations: int = ALTERNATIONS) -> Solution:
    """Least squares on the first `fitted` rows; the others choose the ridge and judge."""
    fit, held = problem.part(0, fitted), problem.part(fitted, len(problem.target))
    system = (_ByRows if fitted < fit.inputs.shape[2] else _ByColumns)(fit)
    before = error(held, problem.weight, problem.bias)
    goal = system.goal(_whole)
    best, chosen = Solution(problem.weight, problem.bias, before, inf), RIDGES[0]
    for ridge in RIDGES:
        weight, bias = system.solved(goal, ridge)
        after = error(held, weight, bias)
        if after < best.error_after:
            best, chosen = Solution(weight, bias, before, after), ridge
    weight, bias = best.weight, best.bias
    for _ in range(alternations if fit.range != UNBOUNDED else 0):
        goal = system.goal(partial(_beyond, weight=weight, bias=bias))
        weight, bias = system.solved(goal, chosen)
        after = error(held, weight, bias)
        if after < best.error_after:
            best = Solution(weight, bias, before, after)
    return best


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


@dataclass(frozen=True)
class _Goal:
    """The outputs that are wanted of the layer itself."""

    right: Tensor
    """The right-hand side of the system, [groups, columns or rows, outputs / groups] double."""
    mean: Tensor
    """[outputs]"""


class _ByColumns:
    """The normal equations: centred second moments of the columns.

    A layer without a place for a bias is fitted through the origin.
    """

    def __init__(self, problem: Problem) -> None:
        inputs = problem.inputs
        self._problem, self._mean = problem, _mean_inputs(problem)
        self._moments = inputs.new_zeros(len(inputs), *[inputs.shape[2]] * 2, dtype=torch.float64)
        for chunk in problem.chunks():
            centred = chunk.inputs - self._mean[:, None]
            self._moments += centred.transpose(1, 2) @ centred
        self._still = _still(problem, self._moments.diagonal(dim1=1, dim2=2), self._mean)
        self._moments.masked_fill_(self._still[:, :, None] | self._still[:, None], 0)

    def goal(self, wanted: Callable[[Problem], Tensor]) -> _Goal:
        """`wanted` gives the layer's own outputs for some rows.

        They are nearly centred by the first of them, so that little is lost in single precision,
        and the rest is made good with the means.
        """
        shifts = self._problem.shifts
        groups, outputs, columns = self._problem.weight.shape
        right = self._moments.new_zeros(groups, columns, outputs)
        total = self._moments.new_zeros(groups, outputs)
        near: Tensor | None = None
        for chunk in self._problem.chunks():
            goal = wanted(chunk)
            if near is None:
                near = goal.mean(0) if shifts else torch.zeros_like(goal[0])
            goal = _by_group(goal - near, groups)
            right += chunk.inputs.transpose(1, 2) @ goal
            total += goal.sum(1)
        assert near is not None
        if not shifts:
            return _Goal(right, near)
        right -= self._mean[:, :, None] * total[:, None]
        right.masked_fill_(self._still[:, :, None], 0)
        mean = near + (total / len(self._problem.target)).flatten().to(near.dtype)
        return _Goal(right, mean)

    def solved(self, goal: _Goal, ridge: float) -> tuple[Tensor, Tensor]:
        """Weight and bias of least squares plus `ridge` times their distance from those there are.

        `ridge` is a part of the mean of the moments' diagonal.
        """
        problem = self._problem
        diagonal = self._moments.diagonal(dim1=1, dim2=2)
        scale = (diagonal.mean(1).clamp(min=SMALLEST) * ridge)[:, None]
        left = self._moments + torch.diag_embed(scale.expand_as(diagonal))
        pull = scale[:, None] * problem.weight.double().transpose(1, 2)
        factor, failed = torch.linalg.cholesky_ex(left)
        if bool(failed.any()):  # too close to singular for this ridge: nothing better than before
            return problem.weight, problem.bias
        found = torch.cholesky_solve(goal.right + pull, factor).transpose(1, 2)
        return _with_bias(found.to(problem.weight.dtype), self._mean, goal.mean)


class _ByRows:
    """The same solution by products of the rows, where there are fewer of them than columns."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._mean = problem, _mean_inputs(problem)
        self._centred = (problem.inputs - self._mean[:, None]).double()
        still = _still(problem, self._centred.square().sum(1), self._mean)
        self._centred.masked_fill_(still[:, None], 0)
        self._moments = self._centred @ self._centred.transpose(1, 2)

    def goal(self, wanted: Callable[[Problem], Tensor]) -> _Goal:
        """What `wanted` gives, less what the weights that there are give of it."""
        problem = self._problem
        goal = wanted(problem)
        mean = goal.mean(0) if problem.shifts else torch.zeros_like(goal[0])
        own = self._centred @ problem.weight.double().transpose(1, 2)
        return _Goal(_by_group(goal - mean, len(own)) - own, mean)

    def solved(self, goal: _Goal, ridge: float) -> tuple[Tensor, Tensor]:
        """As `_ByColumns.solved`."""
        problem, diagonal = self._problem, self._moments.diagonal(dim1=1, dim2=2)
        scale = (diagonal.sum(1) / self._centred.shape[2]).clamp(min=SMALLEST) * ridge
        left = self._moments + torch.diag_embed(scale[:, None].expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(left)
        if bool(failed.any()):
            return problem.weight, problem.bias
        change = torch.cholesky_solve(goal.right, factor).transpose(1, 2) @ self._centred
        found = (problem.weight + change).to(problem.weight.dtype)
        return _with_bias(found, self._mean, goal.mean)


def _mean_inputs(problem: Problem) -> Tensor:
    """[groups, columns]; zeros for a layer without a place for a bias."""
    inputs = problem.inputs
    return inputs.mean(1) if problem.shifts else inputs.new_zeros(len(inputs), inputs.shape[2])


def _still(problem: Problem, squares: Tensor, mean: Tensor) -> Tensor:
    """Which columns vary by rounding alone, [groups, columns]: their weights stay as they are.

    `squares` are the sums of squared deviations from the `mean`.
    """
    return squares < len(problem.target) * (STILL * mean).square()


def _by_group(outputs: Tensor, groups: int) -> Tensor:
    """[rows, outputs] as [groups, rows, outputs / groups]."""
    return outputs.reshape(len(outputs), groups, -1).transpose(0, 1)


def _with_bias(weight: Tensor, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and the bias that gives the mean outputs for the mean inputs."""
    return weight, outputs - (weight @ inputs[:, :, None]).flatten()


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
