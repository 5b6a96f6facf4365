"""First-order Taylor expansion of the loss."""

from typing import ClassVar

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class Taylor(Criterion):
    """Mean over samples of abs(sum of dL/du * u), u the pre-activation.

    The loss's first-order change when the channel is set to zero, sample by sample
    (Molchanov et al., arXiv 1611.06440, with the absolute value a sample).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})

    def score(self, layer: LayerStats) -> Float64:
        return layer.taylor
