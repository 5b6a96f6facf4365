"""How much each channel of a layer matters: one criterion a file, a pure function of Stats."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from pipeline.network.groups import Group
from pipeline.network.layer_kinds import Side
from pipeline.scoring.collect import Float64, LayerStats, Need
from profiles.errors import StageError
from profiles.spec import Spec


class Criterion(Spec, ABC):
    """Scores the channels of one layer; larger is kept longer."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What `collect` has to find out; nothing where the weights are enough."""
    side: ClassVar[Side] = "out"
    """"out" scores the output channels of the layers that write a group, "in" the input channels
    of those that read it."""

    @abstractmethod
    def score(self, layer: LayerStats) -> Float64:
        """One score a channel of this criterion's side."""

    def score_group(self, group: Group, stats: Mapping[str, LayerStats]) -> Float64:
        """One score a unit, [group.size]: the mean over every member channel that is scored.

        The mean keeps a score that is relative to a reference, as PROscore's 1, relative to it.
        """
        total, count = np.zeros(group.size), np.zeros(group.size)
        for member in group.members:
            if member.side == self.side and member.layer in stats:
                scores = self.score(stats[member.layer])
                np.add.at(total, member.units, scores[member.channels])
                np.add.at(count, member.units, 1)
        if not count.all():
            other = "reads" if self.side == "in" else "writes"
            name = type(self).__module__.rpartition(".")[2]
            raise StageError(
                f"{group.name}: no convolution or linear layer {other} all of its channels, so "
                f"{name} cannot score it; choose another criterion"
            )
        return total / count


def group_scores(criterion: Criterion, group: Group, stats: Mapping[str, LayerStats]) -> Float64:
    """One score a unit, [group.size]: the one way in, whatever the criterion."""
    return criterion.score_group(group, stats)
