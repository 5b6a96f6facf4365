"""A short training: distillation from the dense network, the best epoch kept, resumable."""

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.data.arrays import IntArray
from pipeline.data.batches import augment, batches
from pipeline.network.distance import Teacher, teacher_of
from pipeline.network.layer_kinds import BatchNorm
from pipeline.network.run import loss_of, outputs_of
from pipeline.network.weights import read_weights, write_tensors
from pipeline.task import Task
from pipeline.train.settings import Settings
from profiles.errors import ConfigError, StageError
from profiles.spec import Spec

log = logging.getLogger("slimgate")


ADAM_SECOND = 0.99
"""Adam's second moment: shorter than usual, since a brief training has few steps."""
USUAL_SIZE = 0.1
"""Of a tensor that is all zero, such as the bias of a new layer."""

NORMS = (
    *BatchNorm.TYPES,
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.SyncBatchNorm),
)


class Epoch(Spec):
    """Mean training loss, and means over the held-out samples after an epoch; 0 is before."""

    epoch: int
    loss: float | None
    score: float
    distance: float | None
    """From the dense network's outputs; None where nothing is distilled."""


def best_of(epochs: Iterable[Epoch]) -> Epoch:
    """The first of the epochs nearest to the dense network, or, without one, of highest score.

    Nearly all held-out samples are right before and after: only the distance tells epochs apart.
    """
    return min(epochs, key=lambda e: -e.score if e.distance is None else e.distance)


@dataclass(frozen=True)
class _Run:
    """What stays the same through all epochs."""

    settings: Settings
    task: Task
    teacher: Teacher | None
    trained: IntArray
    held_out: IntArray


@dataclass(frozen=True)
class _Progress:
    """What the next epoch starts from."""

    epochs: tuple[Epoch, ...]
    network: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    """What the optimizer remembers, by "parameter/name"."""
    average: Mapping[str, Tensor]
    """Empty without `ema`."""


def train(
    network: nn.Module, dense: nn.Module | None, task: Task, settings: Settings, saved: Path
) -> tuple[Epoch, ...]:
    """Train `network` in place, to end with the weights of the best epoch; every epoch.

    The untrained network counts as epoch 0, so the result is never worse on the held-out samples
    than before. `dense`, on the same device, is the teacher, if there is one and `distill` asks
    for it. A killed run goes on from `saved`, the file of its last whole epoch, to the same end.
    """
    device = next(network.parameters()).device
    trained, held_out = settings.split(task)
    teacher = None
    if dense is not None and settings.distill:
        teacher = teacher_of(dense, task, held_out, settings.temperature)
    run = _Run(settings, task, teacher, trained, held_out)
    if saved.exists():
        progress = _resume(saved, device)
        log.info("  resuming after epoch %d", progress.epochs[-1].epoch)
    else:
        score, distance = _scores(network, run)
        first = Epoch(epoch=0, loss=None, score=score, distance=distance)
        state = _state(network)
        progress = _Progress((first,), state, state, {}, state if settings.ema else {})
    with _only(network, trainable_of(network, settings.trainable)):
        for epoch in range(len(progress.epochs), settings.epochs + 1):
            progress = _epoch(network, run, progress)
            last = progress.epochs[-1]
            log.info(
                "  epoch %d of %d: loss %.4f, held out %.4f%s",
                *(epoch, settings.epochs, last.loss, last.score),
                "" if last.distance is None else f", from the dense network {last.distance:.4f}",
            )
            saved.parent.mkdir(parents=True, exist_ok=True)
            _save(progress, saved)
    network.load_state_dict(progress.best)
    return progress.epochs


def trainable_of(network: nn.Module, which: Literal["all", "norm_bias_head"]) -> set[str]:
    """The names of the parameters to train."""
    names = {name for name, value in network.named_parameters() if value.requires_grad}
    if which == "all":
        return names
    layers = dict(network.named_modules())
    heads = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)][-1:]
    few = set()
    for name in names:
        layer, _, own = name.rpartition(".")
        if own.endswith("bias") or layer in heads or isinstance(layers[layer], NORMS):
            few.add(name)
    if not few:
        raise ConfigError(
            'the network has no norm, bias or linear layer to train: set finetune.trainable = "all"'
        )
    return few


def _scores(network: nn.Module, run: _Run) -> tuple[float, float | None]:
    """Over the held-out samples: the mean of the task's metric, and of the distance if any.

    They are augmented like the others, alike for every epoch: as they are, the dense network and
    a repaired one know them by heart.
    """
    network.eval()
    device = next(network.parameters()).device
    generator = np.random.default_rng(run.settings.seed)
    scores = []
    distance = 0.0
    with torch.no_grad():
        for inputs, targets in batches(run.task.train, run.held_out, 256):
            shown = augment(inputs, run.settings.augment, generator)
            feed = torch.from_numpy(shown).to(device)
            outputs = outputs_of(network, feed)
            if not bool(torch.isfinite(outputs).all()):
                raise StageError("the outputs are not finite; lower the learning rate")
            scores.append(np.asarray(run.task.metric(outputs.cpu().numpy(), targets)))
            if run.teacher:
                wanted = run.teacher.outputs(feed).double()
                distance += run.teacher.distance(outputs.double(), wanted).item() * len(inputs)
    score = float(np.concatenate(scores).mean())
    return score, distance / len(run.held_out) if run.teacher else None


def _epoch(network: nn.Module, run: _Run, before: _Progress) -> _Progress:
    """One epoch from `before`, random by seed and epoch alone: a resumed run is equal."""
    settings, task = run.settings, run.task
    epoch = len(before.epochs)
    generator = np.random.default_rng([settings.seed, epoch])
    torch.manual_seed(settings.seed * 1_000_003 + epoch)
    network.load_state_dict(before.network)
    average = {name: value.clone() for name, value in before.average.items()}
    optimizer = _optimizer(network, settings, before.moments)
    rates = [group["lr"] for group in optimizer.param_groups]
    device = next(network.parameters()).device
    kind = low_precision(device)
    scaler = torch.amp.GradScaler(device.type, enabled=kind is torch.float16)
    order = generator.permutation(run.trained)
    if len(order) % settings.batch_size == 1 and len(order) > 1:
        order = order[:-1]  # batch norm cannot train on a batch of one
    loss = settings.loss(task)
    steps = math.ceil(len(order) / settings.batch_size)
    total = 0.0
    network.train()
    for step, (inputs, targets) in enumerate(batches(task.train, order, settings.batch_size)):
        part = settings.rate((epoch - 1 + step / steps) / settings.epochs)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * part
        feed = torch.from_numpy(augment(inputs, settings.augment, generator)).to(device)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            outputs = outputs_of(network, feed)
            wanted = run.teacher.outputs(feed) if run.teacher else None
        # The outputs are there already; what is left is the loss, and its checks.
        value = loss_of(nn.Identity(), loss, outputs.float(), targets)
        if run.teacher and wanted is not None:
            distance = run.teacher.distance(outputs.float(), wanted.float())
            value = torch.lerp(value, distance, settings.distill)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        total += value.item() * len(inputs)
        _blend(average, network, settings.ema)
    moments = {
        f"{name}/{part}": value.clone()
        for name, parameter in network.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    trained = _state(network)
    kept = average or trained
    network.load_state_dict(kept)
    score, distance_after = _scores(network, run)
    now = Epoch(epoch=epoch, loss=total / len(order), score=score, distance=distance_after)
    epochs = (*before.epochs, now)
    best = kept if best_of(epochs) is now else before.best
    return _Progress(epochs, trained, best, moments, average)


def low_precision(device: torch.device) -> torch.dtype | None:
    """What the device multiplies in while it trains; None where only full precision is fast."""
    if device.type != "cuda":
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if native else None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def _blend(average: Mapping[str, Tensor], network: nn.Module, ema: float | None) -> None:
    """Move the average, if there is one, towards the network's weights and buffers."""
    if ema is None:
        return
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - ema)
        else:
            average[name].copy_(value)


def _optimizer(
    network: nn.Module, settings: Settings, moments: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The optimizer, with what it remembers of the epochs before."""
    named = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            named.values(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    else:
        groups = [
            {"params": [value], "lr": settings.learning_rate * _size(value)}
            for value in named.values()
        ]
        optimizer = torch.optim.Adam(groups, betas=(settings.momentum, ADAM_SECOND))
    for name, value in moments.items():
        parameter, _, part = name.rpartition("/")
        optimizer.state[named[parameter]][part] = value.clone()
    return optimizer


def _size(values: Tensor) -> float:
    """The root mean square, or a usual one for values that have not begun to move."""
    return float(values.detach().square().mean().sqrt()) or USUAL_SIZE


@contextlib.contextmanager
def _only(network: nn.Module, names: set[str]) -> Iterator[None]:
    """Freeze all other parameters for a while."""
    frozen = [p for name, p in network.named_parameters() if p.requires_grad and name not in names]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _save(progress: _Progress, path: Path) -> None:
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
        *(part("network"), part("best"), part("moments"), part("average")),
    )
