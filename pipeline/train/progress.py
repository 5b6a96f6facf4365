"""What the next epoch of a training starts from, and the file from which it is resumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.network.weights import read_weights, write_tensors
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


def save_progress(progress: Progress, path: Path) -> None:
    """Write one safetensors file, its folder made where it is missing."""
    parts = {
        "network": progress.network,
        "best": progress.best,
        "moments": progress.moments,
        "average": progress.average,
    }
    tensors = {
        f"{part}/{name}": value.cpu().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    epochs = json.dumps([epoch.model_dump() for epoch in progress.epochs])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path, {"epochs": epochs})


def read_progress(path: Path, device: torch.device) -> Progress:
    """What `save_progress` wrote, its tensors on `device`."""
    tensors = read_weights(path)
    with safe_open(path, "pt") as file:
        epochs = json.loads(file.metadata()["epochs"])

    def part(prefix: str) -> dict[str, Tensor]:
        found = ((n.partition("/"), value) for n, value in tensors.items())
        return {name: value.to(device) for (head, _, name), value in found if head == prefix}

    return Progress(
        tuple(Epoch.model_validate(epoch) for epoch in epochs),
        *(part("network"), part("best"), part("moments"), part("average")),
    )
