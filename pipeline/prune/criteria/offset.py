"""The unsigned offset: how far one gradient step moves a channel's angle, whatever the way."""

from typing import ClassVar

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class Offset(Criterion):
    """Mean over samples of abs(sum over positions of dL/du * (norm(F) * c - (u - b))).

    u is batch norm's output, F its scale and b its shift, c the convolution's output; without a
    batch norm u = c, F the filter and b its bias. Up to norm(F)^2 it is the first-order term of
    log PROscore with batch norm for sigma, sample by sample and without its sign. Our own
    criterion, not a published one.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})

    per_position: bool = False
    """Take the absolute value of every position before the sum over them."""

    def score(self, layer: LayerStats) -> Float64:
        return layer.offset_per_position if self.per_position else layer.offset
