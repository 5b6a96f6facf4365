"""What the next epoch of a training starts from, and the file from which it is resumed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.data.durable_files import SealedFile
from pipeline.train.epoch_record import Epoch


@dataclass(frozen=True)
class Progress:
    """The state of a training after a whole epoch."""

    epochs: tuple[Epoch, ...]
    """The epochs so far, the first of them before any training."""
    network: Mapping[str, Tensor]
    """The network's weights and buffers as they were trained."""
    best: Mapping[str, Tensor]
    """The weights and buffers of the best epoch."""
    moments: Mapping[str, Tensor]
    """What the optimizer remembers, by "parameter/name"."""
    average: Mapping[str, Tensor]
    """The moving average of weights and buffers; empty without `ema`."""


@dataclass(frozen=True)
class ProgressFile:
    """The file from which a killed training goes on: a sealed safetensors file."""

    path: Path
    check_inputs: Callable[[], None]
    """Raises where what is trained on is no longer what it was: an epoch of it is not kept."""

    def save(self, progress: Progress) -> None:
        """Put `progress` in place of what was saved before, its folder made where it is missing."""
        self.check_inputs()
        parts = {
            "network": progress.network,
            "best": progress.best,
            "moments": progress.moments,
            "average": progress.average,
        }
        tensors = {
            f"{part}/{name}": value.cpu().clone().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        epochs = json.dumps([epoch.model_dump() for epoch in progress.epochs])
        SealedFile(self.path).write(save(tensors, {"epochs": epochs}))

    def read(self, device: torch.device) -> Progress | None:
        """What was saved, its tensors on `device`; None where nothing was, or it is damaged.

        A damaged file is removed. Raises OSError where it cannot be read at all.
        """
        raw = SealedFile(self.path).read("the training begins again")
        return None if raw is None else _progress(raw, device)


def _progress(raw: bytes, device: torch.device) -> Progress:
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    epochs = json.loads(header["__metadata__"]["epochs"])
    tensors = load(raw)

    def part(prefix: str) -> dict[str, Tensor]:
        found = ((n.partition("/"), value) for n, value in tensors.items())
        return {name: value.to(device) for (head, _, name), value in found if head == prefix}

    return Progress(
        tuple(Epoch.model_validate(epoch) for epoch in epochs),
        *(part("network"), part("best"), part("moments"), part("average")),
    )
