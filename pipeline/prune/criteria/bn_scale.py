"""Batch norm's scale."""

from typing import ClassVar

import numpy as np

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need
from profiles.errors import StageError


class BnScale(Criterion):
    """abs(gamma) of the batch norm that follows (Liu et al., arXiv 1708.06519)."""

    # The pass shows which batch norm reads which layer.
    needs: ClassVar[frozenset[Need]] = frozenset({"activations"})

    def score(self, layer: LayerStats) -> Float64:
        if layer.norm is None:
            raise StageError(
                f"{layer.name} has no batch norm, so bn_scale cannot score it; "
                "choose another criterion, such as magnitude"
            )
        return np.abs(layer.norm.scale)
