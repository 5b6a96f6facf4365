"""PROscore of IPPRO."""

from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need
from pipeline.scoring.layer_stats import Accumulation, Filter, Place

ZERO_FILTER = 1e-12
SMALLEST_DENOMINATOR = 1e-12


class Pro(Criterion):
    """norm(F - lambda dL/dF) / abs(norm(F) - lambda dL/dD): Eq. 4 of arXiv 2507.14171.

    In float64, for single precision loses the ranking at small lambda. A filter of zeros is the
    origin of the projective space and scores 0. The defaults are the equation to the letter;
    the other fields are the readings that the paper leaves open.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})

    step_size: PositiveFloat = 0.1
    """lambda of Eq. 3: the length of the one gradient step."""
    filter: Filter = "scale"
    """F: batch norm's `scale`, or `scale_shift`; the layer's `own` filter; that filter `folded`
    with batch norm. Without a batch norm always the layer's own."""
    place: Place = "activation"
    """Where D sits: at the output of the `activation`, of the layer itself (`output`), or of its
    batch `norm`."""
    accumulation: Accumulation = "mean"
    """Gradients: the `mean` over samples; the `sum` over batches of 32 of their means, of which
    a smaller one counts by its samples; the mean over these batches of their `absolute` value."""

    def score(self, layer: LayerStats) -> Float64:
        filters = layer.filters(self.filter)
        gradients = layer.filter_gradients(self.filter, self.accumulation)
        offsets = layer.offset_gradients(self.place, self.accumulation)
        norm = np.linalg.norm(filters, axis=1)
        moved = np.linalg.norm(filters - self.step_size * gradients, axis=1)
        height = np.abs(norm - self.step_size * offsets)
        return np.where(norm < ZERO_FILTER, 0.0, moved / np.maximum(height, SMALLEST_DENOMINATOR))
