"""Tasks and checkpoints of small trained networks, dense and pruned, as stages take them."""

from pathlib import Path

import numpy as np
from networks import Chain, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.arrays import FloatArray
from pipeline.stages.prune import Prune
from pipeline.store.artifacts import Checkpoint, Pruned
from pipeline.task import Task
from pipeline.train.progress import ProgressFile


class Tints:
    """Images whose class is the colour that is brighter, or none: quick to learn."""

    def __init__(self, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.targets = generator.integers(0, 4, count)
        self._images = generator.standard_normal((count, 3, 8, 8)).astype(np.float32)
        for image, label in zip(self._images, self.targets, strict=True):
            image[label : label + 1] += 1  # nothing for the fourth class

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        return self._images[index], self.targets[index]


def task(kind: type[nn.Module] = Chain) -> Task:
    return Task(lambda: trained(kind), Tints(64, 0), Tints(16, 1))


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is no cross entropy."""
    return functional.mse_loss(outputs, functional.one_hot(targets, 4).float())


def checkpoint(kind: type[nn.Module] = Chain) -> Checkpoint:
    larger = Task(lambda: trained(kind), Tints(160, 0), Tints(40, 1))
    return Checkpoint("dense", larger, None, None)


def kept_at(path: Path) -> ProgressFile:
    """The progress of a training whose data stays as it is."""
    return ProgressFile(path, lambda: None)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


PRUNE = Prune(macs_ratio=0.6, multiple=1, floor=1, samples=64)


def pruned(source: Checkpoint, path: Path) -> Pruned:
    out = folder(path)
    PRUNE.run(source, out, path.with_name(f"{path.name} scratch"))
    return PRUNE.load(source, out, "pruned")
