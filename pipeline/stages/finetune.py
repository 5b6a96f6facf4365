"""A short fine-tuning: SGD, the best epoch kept, resumable after the last one."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.artifact import Checkpoint
from pipeline.data import Augmentation, IntArray, augment, batches
from pipeline.evaluate import compute_device, loss_of, outputs_of
from pipeline.stage import Stage
from pipeline.store import write_json
from pipeline.task import Task, cross_entropy
from pipeline.weights import read_weights, write_tensors, write_weights
from profiles.device import Fraction
from profiles.errors import ConfigError, StageError
from profiles.spec import Spec

log = logging.getLogger("slimgate")

WARM_UP = 0.3
"""The part of a one-cycle schedule in which the rate rises (Smith, arXiv 1708.07120)."""


class Epoch(Spec):
    """Mean training loss and mean metric on the held-out samples after an epoch; 0 is before."""

    epoch: int
    loss: float | None
    score: float


class FineTuneReport(Spec):
    """Every epoch, and the one whose weights were kept."""

    epochs: tuple[Epoch, ...]
    best: int


@dataclass(frozen=True)
class _Progress:
    """What the next epoch starts from."""

    epochs: tuple[Epoch, ...]
    network: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]


class FineTune(Stage[Checkpoint, Checkpoint]):
    """Train all weights; the epoch that does best on held-out training samples is kept.

    The untrained network counts as epoch 0, so the result is never worse there than before.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    epochs: PositiveInt
    learning_rate: PositiveFloat = 0.01
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: PositiveInt = 64
    augment: Augmentation = "none"
    holdout: Fraction = 0.1
    """The part of the training samples that chooses the epoch and is not trained on."""
    seed: NonNegativeInt = 0

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        task, device = source.task, compute_device()
        network = source.network().to(device)
        trained, held_out = self._split(task)
        saved = scratch / "epoch.safetensors"
        if saved.exists():
            progress = _resume(saved, device)
            log.info("  resuming after epoch %d", progress.epochs[-1].epoch)
        else:
            first = Epoch(epoch=0, loss=None, score=_score(network, task, held_out))
            state = _state(network)
            progress = _Progress((first,), state, state, {})
        for epoch in range(len(progress.epochs), self.epochs + 1):
            progress = self._epoch(network, task, trained, held_out, progress)
            last = progress.epochs[-1]
            log.info(
                "  epoch %d of %d: loss %.4f, held out %.4f",
                *(epoch, self.epochs, last.loss, last.score),
            )
            scratch.mkdir(parents=True, exist_ok=True)
            _save(progress, saved)
        network.load_state_dict(progress.best)
        write_weights(network, out / "model.safetensors")
        best = _best(progress.epochs).epoch
        write_json(out / "finetune.json", FineTuneReport(epochs=progress.epochs, best=best))

    def load(self, source: Checkpoint, out: Path, key: str) -> Checkpoint:
        return Checkpoint(key, source.task, out / "model.safetensors", source.plan)

    def _split(self, task: Task) -> tuple[IntArray, IntArray]:
        order = np.random.default_rng(self.seed).permutation(len(task.train))
        count = max(1, round(self.holdout * len(order)))
        if count >= len(order):
            raise ConfigError(f"{len(order)} training samples are too few to hold some out")
        return order[count:], order[:count]

    def _epoch(
        self,
        network: nn.Module,
        task: Task,
        trained: IntArray,
        held_out: IntArray,
        before: _Progress,
    ) -> _Progress:
        """One epoch from `before`, random by seed and epoch alone: a resumed run is equal."""
        epoch = len(before.epochs)
        generator = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(self.seed * 1_000_003 + epoch)
        network.load_state_dict(before.network)
        optimizer = self._optimizer(network, before.momentum)
        device = next(network.parameters()).device
        loss = self._loss(task)
        order = generator.permutation(trained)
        if len(order) % self.batch_size == 1 and len(order) > 1:
            order = order[:-1]  # batch norm cannot train on a batch of one
        steps = math.ceil(len(order) / self.batch_size)
        total = 0.0
        network.train()
        for step, (inputs, targets) in enumerate(batches(task.train, order, self.batch_size)):
            rate = self._rate((epoch - 1 + step / steps) / self.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            feed = torch.from_numpy(augment(inputs, self.augment, generator)).to(device)
            value = loss_of(network, loss, feed, targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(inputs)
        network.eval()
        now = Epoch(epoch=epoch, loss=total / len(order), score=_score(network, task, held_out))
        state = _state(network)
        best = state if now.score > _best(before.epochs).score else before.best
        momentum = {
            name: optimizer.state[parameter]["momentum_buffer"].clone()
            for name, parameter in network.named_parameters()
            if "momentum_buffer" in optimizer.state.get(parameter, {})
        }
        return _Progress((*before.epochs, now), state, best, momentum)

    def _optimizer(self, network: nn.Module, momentum: Mapping[str, Tensor]) -> torch.optim.SGD:
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        for name, parameter in network.named_parameters():
            if name in momentum:
                optimizer.state[parameter]["momentum_buffer"] = momentum[name].clone()
        return optimizer

    def _rate(self, done: float) -> float:
        """The learning rate when the fraction `done` of all steps is done."""
        if self.schedule == "one_cycle" and done < WARM_UP:
            return self.learning_rate * (0.04 + 0.96 * done / WARM_UP)
        if self.schedule == "one_cycle":
            done = (done - WARM_UP) / (1 - WARM_UP)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _loss(self, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
        if not self.label_smoothing:
            return task.loss
        if task.loss is not cross_entropy:
            raise ConfigError("finetune.label_smoothing needs the cross entropy as the task's loss")
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)


def _score(network: nn.Module, task: Task, indices: IntArray) -> float:
    """The mean of the task's metric over the held-out samples."""
    network.eval()
    device = next(network.parameters()).device
    scores = []
    with torch.no_grad():
        for inputs, targets in batches(task.train, indices, 256):
            outputs = outputs_of(network, torch.from_numpy(inputs).to(device))
            if not bool(torch.isfinite(outputs).all()):
                raise StageError("the outputs are not finite; lower the learning rate")
            scores.append(np.asarray(task.metric(outputs.cpu().numpy(), targets)))
    return float(np.concatenate(scores).mean())


def _best(epochs: tuple[Epoch, ...]) -> Epoch:
    """The first epoch with the highest score."""
    return max(epochs, key=lambda epoch: epoch.score)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _save(progress: _Progress, path: Path) -> None:
    parts = {
        "network": progress.network,
        "best": progress.best,
        "momentum": progress.momentum,
    }
    tensors = {
        f"{part}/{name}": value.cpu().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    epochs = json.dumps([epoch.model_dump() for epoch in progress.epochs])
    write_tensors(tensors, path, {"epochs": epochs})


def _resume(path: Path, device: torch.device) -> _Progress:
    tensors = read_weights(path)
    with safe_open(path, "pt") as file:
        epochs = json.loads(file.metadata()["epochs"])

    def part(prefix: str) -> dict[str, Tensor]:
        found = ((n.partition("/"), value) for n, value in tensors.items())
        return {name: value.to(device) for (head, _, name), value in found if head == prefix}

    return _Progress(
        tuple(Epoch.model_validate(epoch) for epoch in epochs),
        part("network"),
        part("best"),
        part("momentum"),
    )
