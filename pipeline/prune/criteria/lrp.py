"""Relevance for the true class."""

from typing import ClassVar

from pipeline.network.layer_kinds import Side
from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class Lrp(Criterion):
    """Mean over samples of the sum over positions of abs(R), where the channel is read.

    R by the z+ rule from the true class's logit, each sample's normalised to 1 (Yeom et al.,
    arXiv 1912.08881); pipeline.scoring.relevance says how it passes everything but linear layers.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"relevance"})
    side: ClassVar[Side] = "in"

    def score(self, layer: LayerStats) -> Float64:
        return layer.relevance
