"""PROscore of IPPRO."""

import numpy as np
from pydantic import PositiveFloat

from pipeline.criteria import Criterion
from pipeline.stats import Float64, LayerStats

ZERO_FILTER = 1e-12
SMALLEST_DENOMINATOR = 1e-12


class Pro(Criterion):
    """norm(F - lambda dL/dF) / abs(norm(F) - lambda dL/dD): Eq. 4 of arXiv 2507.14171.

    In float64, for single precision loses the ranking at small lambda. A filter of zeros is the
    origin of the projective space and scores 0.
    """

    step_size: PositiveFloat = 0.1
    """lambda of Eq. 3: the length of the one gradient step."""

    def score(self, layer: LayerStats) -> Float64:
        norm = np.linalg.norm(layer.filters, axis=1)
        moved = np.linalg.norm(layer.filters - self.step_size * layer.filter_gradients, axis=1)
        height = np.abs(norm - self.step_size * layer.offset_gradients)
        return np.where(norm < ZERO_FILTER, 0.0, moved / np.maximum(height, SMALLEST_DENOMINATOR))
