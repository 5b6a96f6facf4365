"""The selection chosen by trial: prune, repair quickly, compare answers on held-out samples."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from torch import Tensor, nn

from pipeline.network.calibration import Calibration
from pipeline.network.distance import Teacher, teacher_for_loss
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Selection, choose
from pipeline.prune.prunable import PrunableNetwork
from pipeline.repair.chain import distance_from
from pipeline.repair.dense_targets import DenseTargets, dense_targets
from pipeline.repair.resolve_layers import resolve_layers
from pipeline.scoring.collect import Loss
from pipeline.scoring.layer_stats import LayerStats
from pipeline.store.reports import Trial
from profiles.errors import StageError
from profiles.plugins import name_of

log = logging.getLogger("slimgate")

QUICK_REPAIR_ROWS = 16_000
"""Positions of each layer that the quick repair fits."""


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share: the same quick repair, judged on the same held-out samples."""

    dense: nn.Module
    targets: DenseTargets
    """The dense network's outputs, to which the quick repair fits every layer."""
    teacher: Teacher
    held_out: Tensor
    """Inputs [n, ...] that no repair is fitted to, and mixtures of them."""

    def try_plan(self, plan: PruningPlan) -> tuple[nn.Module, float]:
        """The pruned network, repaired, and its distance from the dense one; inf if not finite."""
        network = apply_plan(self.dense, plan)
        resolve_layers(network, plan, self.targets, 0)
        return network, distance_from(self.teacher, network, self.held_out)


def trial_setup(dense: nn.Module, calibration: Calibration, loss: Loss) -> TrialSetup:
    """Trials on all of the samples."""
    mixed = calibration.with_mixtures()
    held_out = mixed[mixed.fitted : len(mixed)]
    teacher = teacher_for_loss(dense, loss, [held_out], temperature=1.0)
    inputs, fitted = calibration.inputs, calibration.fitted
    targets = dense_targets(dense, inputs, fitted, QUICK_REPAIR_ROWS, calibration.memory)
    return TrialSetup(dense, targets, teacher, held_out)


def choose_by_trial(
    prunable: PrunableNetwork,
    stats: Mapping[str, LayerStats],
    selections: Sequence[Selection],
    limits: Limits | None,
    setup: TrialSetup,
) -> tuple[Choice, tuple[Trial, ...]]:
    """The choice whose pruned network, repaired, is nearest to the dense one; and every trial.

    Not by accuracy: a trained network is right on nearly all of its own training samples.
    A selection that fails is passed over. Raises StageError when all of them fail.
    """
    best: Choice | None = None
    least = inf
    trials = []
    for selection in selections:
        names = {
            "criterion": name_of(selection.criterion),
            "allocator": name_of(selection.allocator),
        }
        try:
            choice = choose(prunable, stats, selection, limits)
            _, distance = setup.try_plan(choice.plan)
        except StageError as error:
            trials.append(Trial(**names, distance=None, reason=str(error)))
            continue
        if not isfinite(distance):
            trials.append(Trial(**names, distance=None, reason="its outputs are not finite"))
            continue
        trials.append(Trial(**names, distance=distance, reason=""))
        log.info("  %s, %s: %.4f", *names.values(), distance)
        if distance < least:
            best, least = choice, distance
    if best is None:
        raise StageError(f"no way to prune this network worked; the last one: {trials[-1].reason}")
    return best, tuple(trials)
