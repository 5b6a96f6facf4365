"""The criterion and the allocator chosen by trial: prune, repair quickly, ask held-out samples."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from torch import Tensor, nn

from pipeline.network.calibration import Calibration, bounded
from pipeline.network.distance import Teacher, teacher_for
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.prune.allocators import Allocator
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Subject, Widths, choose
from pipeline.prune.criteria import Criterion
from pipeline.repair.chain import distance_from
from pipeline.repair.dense_targets import DenseTargets, dense_targets
from pipeline.repair.resolve_layers import resolve_layers
from pipeline.scoring.collect import Loss
from pipeline.scoring.layer_stats import LayerStats
from pipeline.store.reports import Trial
from profiles.errors import StageError
from profiles.plugins import name_of

log = logging.getLogger("slimgate")

ROWS = 16_000
"""Positions of each layer that the quick repair fits."""


@dataclass(frozen=True)
class Course:
    """The same quick repair and the same held-out samples for every plan that is tried."""

    dense: nn.Module
    targets: DenseTargets
    teacher: Teacher
    held: Tensor

    def run(self, plan: PruningPlan) -> tuple[nn.Module, float]:
        """The pruned network, repaired, and its distance from the dense one; inf if not finite."""
        network = apply_plan(self.dense, plan)
        resolve_layers(network, plan, self.targets, 0)
        return network, distance_from(self.teacher, network, self.held)


def course_of(dense: nn.Module, calibration: Calibration, loss: Loss) -> Course:
    """Trials on `calibration`, judged on its held-out samples and mixtures of them."""
    calibration, _ = bounded(dense, calibration)
    mixed = calibration.mixed()
    held = mixed.inputs[mixed.fitted :]
    teacher = teacher_for(dense, loss, [held], temperature=1.0)
    targets = dense_targets(dense, calibration.inputs, calibration.fitted, ROWS)
    return Course(dense, targets, teacher, held)


@dataclass(frozen=True)
class Picked:
    """The best choice, what made it, and every trial in the order of trying."""

    criterion: Criterion
    allocator: Allocator
    choice: Choice
    trials: tuple[Trial, ...]


def pick(
    subject: Subject,
    stats: Mapping[str, LayerStats],
    course: Course,
    criteria: Sequence[Criterion],
    allocators: Sequence[Allocator],
    limits: Limits | None,
    widths: Widths,
) -> Picked:
    """The pair whose pruned network, repaired, is nearest to the dense one on held-out samples.

    Not by accuracy: a trained network is right on nearly all of its own training samples.
    A pair that fails is passed over. Raises StageError when all of them fail.
    """
    best: tuple[float, Criterion, Allocator, Choice] | None = None
    trials = []
    for allocator, criterion in itertools.product(allocators, criteria):
        names = {"criterion": name_of(criterion), "allocator": name_of(allocator)}
        reason, distance = "", inf
        try:
            choice = choose(subject, stats, criterion, allocator, limits, widths)
            _, distance = course.run(choice.plan)
        except StageError as error:
            reason = str(error)
        else:
            if best is None or distance < best[0]:
                best = distance, criterion, allocator, choice
        if not isfinite(distance):
            reason = reason or "its outputs are not finite"
            trials.append(Trial(**names, distance=None, reason=reason))
        else:
            trials.append(Trial(**names, distance=distance, reason=""))
            log.info("  %s, %s: %.4f", *names.values(), distance)
    if best is None or not isfinite(best[0]):
        raise StageError(f"no way to prune this network worked; the last one: {trials[-1].reason}")
    return Picked(*best[1:], tuple(trials))
