"""Size of a consumer's input."""

from typing import ClassVar

from pipeline.network.layer_kinds import Side
from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class Activation(Criterion):
    """Mean over samples and positions of abs(X_j), where the channel is read.

    The mean activation of Molchanov et al. (arXiv 1611.06440, section 2.2), with the absolute
    value for activations that may be negative.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"activations"})
    side: ClassVar[Side] = "in"

    def score(self, layer: LayerStats) -> Float64:
        return layer.input_abs_mean
