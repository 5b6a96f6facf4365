"""How many units each group keeps: one allocator a file, monotone in one knob."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.data.arrays import FloatArray, IntArray
from pipeline.network.costs import Counts
from pipeline.network.groups import Group
from pipeline.scoring.collect import Float64
from profiles.spec import Spec


@dataclass(frozen=True)
class Staircase:
    """The widths of a group that are worth keeping: any other takes as long as a wider one."""

    units: IntArray
    """Ascending; the last are all."""
    times: Float64
    """Of the network, over the dense one's, while every other group is whole; ascending."""


@dataclass(frozen=True)
class Candidate:
    """What an allocator may know of one group."""

    group: Group
    scores: Float64
    """[size]; larger is kept longer."""
    macs: float
    """MACs that one unit costs while every other group is whole: size * macs is what the whole
    group could save."""
    parameters: float
    """Parameters that one unit costs, likewise."""
    errors: Float64
    """[size + 1]: the relative reconstruction error when k units are kept; empty where not
    collected."""
    shape: tuple[int, int, int]
    """Outputs, inputs / groups and kernel positions of the group's first producing layer."""
    weights: FloatArray
    """Absolute weights of the group's producers, sorted upwards."""
    staircase: Staircase | None = None
    """Where time is what counts, and not MACs."""


class Allocator(Spec, ABC):
    """Turns a knob into the fraction of every group that stays."""

    needs_errors: ClassVar[bool] = False
    """Whether it reads `Candidate.errors`, which take a pass over the data to collect."""

    @abstractmethod
    def knob(self) -> float | None:
        """The knob its own fields ask for; None when a budget has to set it."""

    @abstractmethod
    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        """The fraction of each group to keep, 0 to 1.

        None grows as `knob` goes from 0 (keep all) to 1 (keep as little as it may).
        """

    def losses(self, candidates: Sequence[Candidate]) -> list[Float64] | None:
        """What each group loses at every number of units, [size + 1], where that can be added up.

        Of networks that cost the same, the one that loses least in all is the best.
        """
        return None

    def remarks(self, candidates: Sequence[Candidate], counts: Counts) -> tuple[str, ...]:
        """What the report should say about `counts`."""
        return ()
