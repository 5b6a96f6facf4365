"""As many units as weights would survive one threshold."""

from collections.abc import Sequence

import numpy as np

from pipeline.data.arrays import FloatArray
from pipeline.prune.allocators import Allocator, Candidate
from profiles.spec import Fraction

THRESHOLD_STEPS = 50
"""Halvings, to the precision of a weight a thousandth of the largest and more."""


class Density(Allocator):
    """Keep the fraction of a group's units that it has of absolute weights over a threshold.

    Under the one threshold for all groups lies at most the fraction knob of all weights.
    PreCrop (arXiv 2203.02549) gives a layer the density that pruning single weights would
    leave; that its units follow in proportion, and that the weights are trained, is ours.
    """

    pruning_ratio: Fraction | None = None
    """The fraction of all weights under the threshold, or what the budget needs."""

    def knob(self) -> float | None:
        return self.pruning_ratio

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        weights = [candidate.weights for candidate in candidates]
        wanted = knob * sum(map(len, weights))
        low, high = 0.0, 2 * float(max(part[-1] for part in weights))
        for _ in range(THRESHOLD_STEPS):
            middle = (low + high) / 2
            over = sum(_under(part, middle) for part in weights) > wanted
            low, high = (low, middle) if over else (middle, high)
        return [1 - _under(part, low) / len(part) for part in weights]


def _under(weights: FloatArray, threshold: float) -> int:
    """How many of the sorted `weights` lie under it."""
    return int(np.searchsorted(weights, np.float32(threshold)))
