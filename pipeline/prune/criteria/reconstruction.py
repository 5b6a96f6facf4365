"""The channels from which the others can be reconstructed."""

from collections.abc import Mapping
from typing import ClassVar

from pipeline.network.groups import Group
from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need
from profiles.errors import StageError


class Reconstruction(Criterion):
    """The step of a backward elimination, `pipeline.scoring.elimination`, in which a channel goes.

    Column subset selection on the second moments of what the group's consumers read: a channel
    goes early when the consumers' outputs, refitted, hardly miss it. Larger is kept longer.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"moments"})

    def score(self, layer: LayerStats) -> Float64:
        if layer.elimination is None:
            raise StageError(
                f"{layer.name}: its channels are read by something else than convolutions and "
                "linear layers that run once, so 'reconstruction' cannot score them; choose "
                "another criterion"
            )
        return layer.elimination.scores()

    def score_group(self, group: Group, stats: Mapping[str, LayerStats]) -> Float64:
        """The elimination runs over all consumers of the group at once."""
        return self.score(stats[group.name])
