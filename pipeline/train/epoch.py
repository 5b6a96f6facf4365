"""One epoch of a training: from the state before it to the state after it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import IntArray
from pipeline.data.batches import augment, batches
from pipeline.network.copies import set_state, state_of, tensors_of
from pipeline.network.distance import Teacher
from pipeline.network.run import loss_of, outputs_of
from pipeline.task import Task
from pipeline.train.epoch_record import Epoch, best_of
from pipeline.train.optimizer import make_optimizer, moments_of
from pipeline.train.precision import low_precision
from pipeline.train.progress import Progress
from pipeline.train.settings import Settings
from profiles.errors import StageError

SCORED_AT_A_TIME = 256


@dataclass(frozen=True)
class TrainingPlan:
    """What stays the same through all epochs."""

    settings: Settings
    task: Task
    teacher: Teacher | None
    """The dense network, where it teaches."""
    trained: IntArray
    """The places of the training samples that are trained on."""
    held_out: IntArray
    """The places of the training samples that choose the epoch."""


def start_of(network: nn.Module, plan: TrainingPlan) -> Progress:
    """The state before any training: epoch 0."""
    score, distance = held_out_scores(network, plan)
    state = state_of(network)
    average = state if plan.settings.ema else {}
    first = Epoch(epoch=0, loss=None, score=score, distance=distance)
    return Progress((first,), state, state, {}, average)


def train_epoch(network: nn.Module, plan: TrainingPlan, before: Progress) -> Progress:
    """One epoch from `before`, random by seed and epoch alone: a resumed training is equal.

    `network` is left with the weights that were scored. Raises StageError where outputs or the
    loss are not finite.
    """
    settings, epoch = plan.settings, len(before.epochs)
    generator = np.random.default_rng([settings.seed, epoch])
    torch.manual_seed(settings.seed * 1_000_003 + epoch)
    set_state(network, before.network)
    average = {name: value.clone() for name, value in before.average.items()}
    optimizer = make_optimizer(network, settings, before.moments)
    mean_loss = _take_steps(network, plan, epoch, optimizer, average, generator)
    moments, trained = moments_of(optimizer, network), state_of(network)
    kept = average or trained
    set_state(network, kept)
    score, distance = held_out_scores(network, plan)
    now = Epoch(epoch=epoch, loss=mean_loss, score=score, distance=distance)
    epochs = (*before.epochs, now)
    best = kept if best_of(epochs) is now else before.best
    return Progress(epochs, trained, best, moments, average)


def held_out_scores(network: nn.Module, plan: TrainingPlan) -> tuple[float, float | None]:
    """Over the held-out samples: the mean of the task's metric, and of the distance if any.

    They are augmented like the others, alike for every epoch: as they are, the dense network and
    a repaired one know them by heart.
    """
    network.eval()
    device = next(network.parameters()).device
    generator = np.random.default_rng(plan.settings.seed)
    scores = []
    distance = 0.0
    with torch.no_grad():
        for inputs, targets in batches(plan.task.train, plan.held_out, SCORED_AT_A_TIME):
            shown = augment(inputs, plan.settings.augment, generator)
            feed = torch.from_numpy(shown).to(device)
            outputs = outputs_of(network, feed)
            if not bool(torch.isfinite(outputs).all()):
                raise StageError(
                    "the outputs for held-out samples are not finite: lower the learning rate, "
                    "finetune.learning_rate"
                )
            scores.append(np.asarray(plan.task.metric(outputs.cpu().numpy(), targets)))
            if plan.teacher:
                wanted = plan.teacher.outputs(feed).double()
                distance += plan.teacher.distance(outputs.double(), wanted).item() * len(inputs)
    score = float(np.concatenate(scores).mean())
    return score, distance / len(plan.held_out) if plan.teacher else None


def _take_steps(
    network: nn.Module,
    plan: TrainingPlan,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    generator: np.random.Generator,
) -> float:
    """Train `network` and move `average`, both in place, over all batches; the mean loss."""
    settings, task = plan.settings, plan.task
    device = next(network.parameters()).device
    precision = low_precision(device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    order = generator.permutation(plan.trained)
    if len(order) % settings.batch_size == 1 and len(order) > 1:
        order = order[:-1]  # batch norm cannot train on a batch of one
    loss = settings.loss(task)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = math.ceil(len(order) / settings.batch_size)
    total = 0.0
    network.train()
    for step, (inputs, targets) in enumerate(batches(task.train, order, settings.batch_size)):
        part = settings.rate((epoch - 1 + step / steps) / settings.epochs)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * part
        feed = torch.from_numpy(augment(inputs, settings.augment, generator)).to(device)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            outputs = outputs_of(network, feed)
            wanted = plan.teacher.outputs(feed) if plan.teacher else None
        # The outputs are there already; what is left is the loss, and its checks.
        value = loss_of(nn.Identity(), loss, outputs.float(), targets)
        if plan.teacher and wanted is not None:
            distance = plan.teacher.distance(outputs.float(), wanted.float())
            value = torch.lerp(value, distance, settings.distill)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        total += value.item() * len(inputs)
        if settings.ema is not None:
            _move_average(average, network, settings.ema)
    return total / len(order)


def _move_average(average: Mapping[str, Tensor], network: nn.Module, kept: float) -> None:
    """Move the average, which keeps the part `kept` of itself, towards weights and buffers."""
    for name, value in tensors_of(network).items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - kept)
        else:
            average[name].copy_(value)
