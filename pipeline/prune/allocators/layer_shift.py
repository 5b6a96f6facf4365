"""Less from the groups that matter more."""

from collections.abc import Sequence

import numpy as np

from pipeline.prune.allocators import Allocator, Candidate
from profiles.spec import Fraction


class LayerShift(Allocator):
    """Remove base - amplitude * I of a group, I in [-1, 1] its centred importance.

    Adapt-Pruner (arXiv 2502.03460), whose importance is that of a transformer's block; here it
    is the group's mean score m: I = (m - mean m) / max abs(m - mean m). The knob is the base.
    Near 0 and 1 the amplitude shrinks to base and to 1 - base, so every ratio is one and none
    falls as the base grows.
    """

    amplitude: Fraction = 0.1
    pruning_ratio: Fraction | None = None
    """The base, or what the budget needs."""

    def knob(self) -> float | None:
        return self.pruning_ratio

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        means = np.array([candidate.scores.mean() for candidate in candidates])
        centred = means - means.mean()
        importance = centred / (np.abs(centred).max() or 1.0)
        amplitude = min(self.amplitude, knob, 1 - knob)
        return [float(kept) for kept in 1 - knob + amplitude * importance]
