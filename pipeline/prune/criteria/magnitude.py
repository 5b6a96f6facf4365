"""Magnitude of the filters."""

from typing import Literal

import numpy as np

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats


class Magnitude(Criterion):
    """The L1 or L2 norm of each filter (Li et al., arXiv 1608.08710)."""

    order: Literal[1, 2] = 2

    def score(self, layer: LayerStats) -> Float64:
        return np.asarray(np.linalg.norm(layer.weight, ord=self.order, axis=1))
