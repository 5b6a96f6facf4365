"""Fluctuation of a consumer's input."""

from typing import ClassVar

from pipeline.network.layer_kinds import Side
from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class Fluctuation(Criterion):
    """Var(X_j) * norm(W_:j)^2, of the layer that reads channel j: FLAP (arXiv 2312.11983).

    What is lost of a consumer's output when the channel is replaced by its mean.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"activations"})
    side: ClassVar[Side] = "in"

    def score(self, layer: LayerStats) -> Float64:
        squares: Float64 = (layer.weight_by_input() ** 2).sum(1)
        return layer.input_variance * squares
