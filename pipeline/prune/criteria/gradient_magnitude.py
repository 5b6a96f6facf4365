"""Weights, inputs and gradients together."""

from typing import ClassVar

import numpy as np

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats, Need


class GradientMagnitude(Criterion):
    """Sum over the filter of abs(W_ij) * (norm(X_j) + abs(G_ij)): GBLM (arXiv 2311.04902).

    norm(X_j) is the root mean square of the input channel over samples and positions, and
    abs(G) the mean over batches of 32 of each batch's absolute gradient, so that neither grows with
    the number of samples. Without G it is Wanda's score (arXiv 2306.11695).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"activations", "gradients"})

    def score(self, layer: LayerStats) -> Float64:
        inputs = layer.at_weights(np.sqrt(layer.input_square_mean))
        scores: Float64 = np.abs(layer.weight) * (inputs + layer.weight_gradient.absolute)
        total: Float64 = scores.sum(1)
        return total
