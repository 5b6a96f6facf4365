"""The same fraction of every group."""

from collections.abc import Sequence

from pipeline.prune.allocators import Allocator, Candidate
from profiles.spec import Fraction


class Uniform(Allocator):
    """Remove `pruning_ratio` of every group, or what the budget needs."""

    pruning_ratio: Fraction | None = None

    def knob(self) -> float | None:
        return self.pruning_ratio

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        return [1 - knob] * len(candidates)
