"""A filter weighed by what it does to the spread of its input."""

from typing import ClassVar

import numpy as np

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need

SMALLEST = 1e-12


class BetaRank(Criterion):
    """mean(abs(F_i)) * std(output channel i) / std(input): Beta-Rank.

    The standard deviation of the input is that of all its channels together, over samples and
    positions; a constant input gives every channel 0.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"activations"})

    def score(self, layer: LayerStats) -> Float64:
        variance = layer.input_square_mean.mean() - layer.input_mean.mean() ** 2
        spread = np.sqrt(max(variance, 0.0))
        size: Float64 = np.abs(layer.weight).mean(1)
        if spread < SMALLEST:
            return np.zeros_like(size)
        gain: Float64 = np.sqrt(layer.output_variance) / spread
        return size * gain
