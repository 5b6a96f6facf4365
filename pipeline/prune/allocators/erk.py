"""Erdos-Renyi-kernel densities: the larger a layer, the sparser."""

from collections.abc import Sequence

import numpy as np

from pipeline.prune.allocators import Allocator, Candidate
from profiles.spec import Fraction


class Erk(Allocator):
    """Keep min(1, e * (in + out + height + width) / (in * out * height * width)) of a group.

    ERK of RigL (arXiv 1911.11134), with which random pruning does well (arXiv 2202.02643); of
    the group's first layer, its kernel taken as square. The one e for all groups leaves a
    fraction 1 - knob of these layers' weights. Densities of weights there, of units here.
    """

    pruning_ratio: Fraction | None = None
    """The fraction of the layers' weights to remove, or what the budget needs."""

    def knob(self) -> float | None:
        return self.pruning_ratio

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        shapes = np.array([candidate.shape for candidate in candidates], dtype=np.float64)
        outputs, inputs, kernel = shapes.T
        weights = outputs * inputs * kernel
        raw = (outputs + inputs + 2 * np.sqrt(kernel)) / weights
        # From the densest: those that reach 1 stay whole, and the rest share what is left.
        order = np.argsort(-raw, kind="stable")
        wanted = (1 - knob) * weights.sum()
        for place, first in enumerate(order):
            rest = order[place:]
            scale = wanted / float((raw * weights)[rest].sum())
            if scale * raw[first] < 1:
                break
            wanted -= weights[first]
        return [float(kept) for kept in np.clip(scale * raw, 0, 1)]
