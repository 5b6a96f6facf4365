"""Random labelled inputs, and the statistics that networks.py's networks show on them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from pipeline.data.arrays import FloatArray, Targets
from pipeline.data.batches import batches
from pipeline.network.groups import Group, find_groups
from pipeline.scoring.collect import LayerStats, Need, collect
from pipeline.task import cross_entropy

SAMPLES = 24
ALL: frozenset[Need] = frozenset({"gradients", "activations", "relevance"})


class Samples:
    """Random labelled inputs, 3 x 8 x 8, of 4 classes."""

    def __init__(self, count: int = SAMPLES, repeat: int = 1) -> None:
        generator = np.random.default_rng(0)
        inputs = generator.standard_normal((count, 3, 8, 8)).astype(np.float32)
        self._inputs = np.concatenate([inputs] * repeat)
        self.targets = np.concatenate([generator.integers(0, 4, count)] * repeat)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        return self._inputs[index], self.targets[index]


def feeds(data: Samples, size: int = 10) -> Iterator[tuple[FloatArray, Targets]]:
    return batches(data, range(len(data)), size)


def stats_of(
    network: nn.Module,
    data: Samples | None = None,
    size: int = 10,
    needs: frozenset[Need] = ALL,
) -> tuple[tuple[Group, ...], dict[str, LayerStats]]:
    data = data or Samples()
    groups = find_groups(network, torch.from_numpy(data[0][0])[None]).groups
    return groups, collect(network, groups, feeds(data, size), cross_entropy, needs)
