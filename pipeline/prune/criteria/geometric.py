"""Distance to the geometric median of a layer's filters."""

import numpy as np

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats


class Geometric(Criterion):
    """Sum over j of norm(W_i - W_j): FPGM (He et al., arXiv 1811.00250).

    A filter near the geometric median is one that the others can stand in for.
    """

    def score(self, layer: LayerStats) -> Float64:
        squares = (layer.weight**2).sum(1)
        apart = squares[:, None] + squares - 2 * layer.weight @ layer.weight.T
        np.fill_diagonal(apart, 0)
        total: Float64 = np.sqrt(np.maximum(apart, 0)).sum(1)
        return total
