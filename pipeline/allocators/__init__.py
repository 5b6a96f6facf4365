"""How many units each group keeps: one allocator a file, monotone in one knob."""

from abc import ABC, abstractmethod

from pipeline.groups import Group
from profiles.spec import Spec


class Allocator(Spec, ABC):
    """Turns a knob from 0 (keep all) to 1 (keep as little as it may) into pruning ratios."""

    @abstractmethod
    def knob(self) -> float | None:
        """The knob its own fields ask for; None when a budget has to set it."""

    @abstractmethod
    def ratio(self, group: Group, knob: float) -> float:
        """The fraction of `group` to remove, 0 to 1; never falls as `knob` grows."""
