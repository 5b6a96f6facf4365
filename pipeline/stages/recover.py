"""Repair a pruned network without training: a chain of recoveries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline.artifact import Checkpoint
from pipeline.data import balanced_indices, batches
from pipeline.evaluate import compute_device
from pipeline.options import choice
from pipeline.recoveries import Recovery
from pipeline.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.stage import Stage
from pipeline.weights import write_weights


class Recover(Stage[Checkpoint, Checkpoint]):
    """Run each recovery of `chain` in turn on the same calibration samples."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    chain: tuple[Annotated[Recovery, *choice("pipeline.recoveries", Recovery)], ...] = Field(
        default=(BnRecalibrate(),), min_length=1
    )
    samples: PositiveInt = 1000
    batch_size: PositiveInt = 64
    seed: NonNegativeInt = 0

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        device = compute_device()
        network = source.network().to(device)
        train = source.task.train
        chosen = balanced_indices(train, self.samples, self.seed)

        def inputs() -> Iterator[torch.Tensor]:
            for images, _ in batches(train, chosen, self.batch_size):
                yield torch.from_numpy(images).to(device)

        for recovery in self.chain:
            recovery.recover(network, inputs())
        write_weights(network, out / "model.safetensors")

    def load(self, source: Checkpoint, out: Path, key: str) -> Checkpoint:
        return Checkpoint(key, source.task, out / "model.safetensors", source.plan)
