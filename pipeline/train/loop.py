"""A short training: distillation from the dense network, the best epoch kept, resumable."""

import logging

from torch import nn

from pipeline.network.copies import set_state
from pipeline.network.distance import teacher_for_task
from pipeline.task import Task
from pipeline.train.epoch import TrainingPlan, start_of, train_epoch
from pipeline.train.epoch_record import Epoch
from pipeline.train.progress import ProgressFile
from pipeline.train.settings import Settings
from pipeline.train.trainable import others_frozen, trainable_names

log = logging.getLogger("slimgate")


def train(
    network: nn.Module,
    dense: nn.Module | None,
    task: Task,
    settings: Settings,
    saved: ProgressFile,
) -> tuple[Epoch, ...]:
    """Train `network` in place, to end with the weights of the best epoch; every epoch.

    The untrained network counts as epoch 0, so the result is never worse on the held-out samples
    than before. `dense`, on the same device, is the teacher, if there is one and `distill` asks
    for it. A killed run goes on from `saved`, its last whole epoch, to the same end.
    """
    plan = _plan(dense, task, settings)
    progress = saved.read(next(network.parameters()).device)
    if progress is None:
        progress = start_of(network, plan)
    else:
        log.info("  resuming after epoch %d", progress.epochs[-1].epoch)
    with others_frozen(network, trainable_names(network, settings.trainable)):
        while len(progress.epochs) <= settings.epochs:
            progress = train_epoch(network, plan, progress)
            saved.save(progress)
            _log(progress.epochs[-1], settings.epochs)
    set_state(network, progress.best)
    return progress.epochs


def _plan(dense: nn.Module | None, task: Task, settings: Settings) -> TrainingPlan:
    trained, held_out = settings.split(task)
    teacher = None
    if dense is not None and settings.distill:
        teacher = teacher_for_task(dense, task, held_out, settings.temperature)
    return TrainingPlan(settings, task, teacher, trained, held_out)


def _log(epoch: Epoch, epochs: int) -> None:
    log.info(
        "  epoch %d of %d: loss %.4f, held out %.4f%s",
        *(epoch.epoch, epochs, epoch.loss, epoch.score),
        "" if epoch.distance is None else f", from the dense network {epoch.distance:.4f}",
    )
