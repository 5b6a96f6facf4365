"""Backward elimination: which channels the others can reconstruct, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.arrays import Float64
from profiles.errors import StageError

LEAST = 1e-6
"""A column with less than this part of the mean variance is held to have that."""
AT_ONCE = 0.01
"""The part of the units that goes in one step; at least one."""


@dataclass(frozen=True)
class Consumer:
    """A linear map that reads a group: outputs are inputs x weight.

    Removing columns and refitting the rest changes the outputs by what the moments tell.
    """

    moments: Tensor
    """[columns, columns]: centred second moments of the inputs, double."""
    weight: Tensor
    """[columns, outputs], double."""
    units: Tensor
    """[size, n]: the columns of each unit."""
    variance: float
    """Of the place where the outputs count, over all of them; errors are relative to it."""


@dataclass(frozen=True)
class Elimination:
    """What a group loses when its units go, those first that the others replace best."""

    order: tuple[int, ...]
    """Units as they are removed."""
    errors: tuple[float, ...]
    """[size + 1]: error relative to the consumers' variances when k units are kept."""

    def scores(self) -> Float64:
        """[size]: the step in which each unit goes; larger is kept longer."""
        places = np.empty(len(self.order))
        places[list(self.order)] = np.arange(len(self.order))
        return places


def eliminate(consumers: Sequence[Consumer], ridge: float) -> Elimination:
    """Remove the unit whose loss, all other weights refitted, is least; again until none is left.

    The optimal brain surgeon (Hassibi & Stork, 1992) by groups of columns, exact for a linear
    map: the loss is tr(W_g' [H^-1]_gg^-1 W_g). `ridge` times its diagonal steadies H before it
    is inverted. Losses of several consumers add up, each relative to its variance.
    """
    size = len(consumers[0].units)
    left = torch.arange(size, device=consumers[0].weight.device)
    states = [_State(consumer, ridge) for consumer in consumers]
    order: list[int] = []
    errors = [0.0]
    while len(left):
        losses = sum(state.losses(left) for state in states)
        assert isinstance(losses, Tensor)
        cheapest = torch.argsort(losses, stable=True)
        taken, rest = cheapest.tensor_split([max(1, int(size * AT_ONCE))])
        lost = sum(state.remove(left[taken]) for state in states)
        for unit in left[taken].tolist():
            order.append(unit)
            errors.append(errors[-1] + lost / len(taken))
        left = left[rest.sort().values]
    return Elimination(tuple(order), tuple(reversed(errors)))


class _State:
    """The inverse moments and refitted weights of a consumer's columns that are left.

    Columns that are gone hold zeros, until half are gone and all of them are dropped.
    """

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        self._units, self._variance = consumer.units, consumer.variance
        if not bool(consumer.moments.isfinite().all()):
            raise StageError("a layer's inputs are not finite on the calibration samples")
        diagonal = consumer.moments.diagonal()
        mean = diagonal.mean().clamp(min=1e-12)
        steady = diagonal.clamp(min=mean * LEAST) * ridge
        factor, failed = torch.linalg.cholesky_ex(consumer.moments + torch.diag(steady))
        while int(failed):  # the moments are rounded, and may not be positive in every direction
            steady = steady * 10 + mean * LEAST
            factor, failed = torch.linalg.cholesky_ex(consumer.moments + torch.diag(steady))
        self._inverse = torch.cholesky_inverse(factor)
        self._weight = consumer.weight.clone()
        self._left = torch.arange(len(self._weight), device=self._weight.device)
        """The columns that these rows are of."""
        self._places = self._left.clone()
        """The row of each column."""
        self._gone = 0

    def losses(self, units: Tensor) -> Tensor:
        """The relative loss of removing each of the units alone."""
        columns = self._places[self._units[units]]
        own = self._weight[columns]
        blocks = self._inverse[columns[:, :, None], columns[:, None]]
        losses: Tensor = (own * torch.linalg.solve(blocks, own)).sum((1, 2)) / self._variance
        return losses

    def remove(self, units: Tensor) -> float:
        """Refit the other columns without these; the relative loss."""
        gone = self._places[self._units[units].flatten()]
        across = self._inverse[:, gone]
        block = across[gone]
        shift = torch.linalg.solve(block, self._weight[gone])
        lost = float((self._weight[gone] * shift).sum()) / self._variance
        self._weight -= across @ shift
        self._inverse -= across @ torch.linalg.solve(block, across.T)
        self._weight[gone] = 0
        self._left[gone] = -1
        self._gone += len(gone)
        if 2 * self._gone >= len(self._left):
            self._drop()
        return lost

    def _drop(self) -> None:
        kept = (self._left >= 0).nonzero().flatten()
        self._inverse = self._inverse[kept][:, kept]
        self._weight, self._left = self._weight[kept], self._left[kept]
        self._places[self._left] = torch.arange(len(kept), device=kept.device)
        self._gone = 0
