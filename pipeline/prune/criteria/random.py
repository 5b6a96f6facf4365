"""The baseline every criterion has to beat."""

import zlib

import numpy as np
from pydantic import NonNegativeInt

from pipeline.prune.criteria import Criterion
from pipeline.scoring.collect import Float64, LayerStats


class Random(Criterion):
    """Uniform random scores, the same for the same seed and layer."""

    seed: NonNegativeInt = 0

    def score(self, layer: LayerStats) -> Float64:
        generator = np.random.default_rng([self.seed, zlib.crc32(layer.name.encode())])
        return generator.random(len(layer.weight))
