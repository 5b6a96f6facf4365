"""The same fraction of every group."""

from pipeline.allocators import Allocator
from pipeline.groups import Group
from profiles.device import Fraction


class Uniform(Allocator):
    """Remove `pruning_ratio` of every group, or what the MACs target needs."""

    pruning_ratio: Fraction | None = None

    def knob(self) -> float | None:
        return self.pruning_ratio

    def ratio(self, group: Group, knob: float) -> float:
        return knob
