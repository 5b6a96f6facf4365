"""How much each channel of a layer matters: one criterion a file, a pure function of Stats."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from pipeline.groups import Group
from pipeline.stats import Float64, LayerStats
from profiles.spec import Spec


class Criterion(Spec, ABC):
    """Scores the channels of one layer; larger is kept longer."""

    @abstractmethod
    def score(self, layer: LayerStats) -> Float64:
        """One score a channel, [channels]."""


def group_scores(criterion: Criterion, group: Group, stats: Mapping[str, LayerStats]) -> Float64:
    """One score a unit, [group.size]: the mean over every member channel that is scored.

    The mean keeps a score that is relative to a reference, as PROscore's 1, relative to it.
    """
    total, count = np.zeros(group.size), np.zeros(group.size)
    for member in group.members:
        if member.side == "out" and member.layer in stats:
            np.add.at(total, member.units, criterion.score(stats[member.layer])[member.channels])
            np.add.at(count, member.units, 1)
    return total / count
