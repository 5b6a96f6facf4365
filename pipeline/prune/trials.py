"""The selection chosen by trial: prune, repair quickly, compare answers on held-out samples."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite

from torch import Tensor, nn

from pipeline.data.digest import value_digest
from pipeline.network.calibration import Calibration
from pipeline.network.distance import Teacher, teacher_for_loss
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Selection, choose
from pipeline.prune.prunable import PrunableNetwork
from pipeline.prune.trial_notes import TrialNotes
from pipeline.repair.chain import answers, distance_from
from pipeline.repair.dense_targets import DenseTargets, dense_targets
from pipeline.repair.resolve_layers import resolve_layers
from pipeline.repair.ridge import ALTERNATIONS
from pipeline.scoring.collect import Loss
from pipeline.scoring.layer_stats import LayerStats
from pipeline.store.reports import Trial
from profiles.errors import StageError, lack_of_memory_refused
from profiles.plugins import name_of

log = logging.getLogger("slimgate")

QUICK_REPAIR_ROWS = 16_000
"""Positions of each layer that the quick repair fits."""
ROUGH_REPAIR_ROWS = 2_000
"""The same in a first round, which only tells whom to try again."""
ROUGH_SHARE, ROUGH_SAMPLES = 0.25, 32
"""The part of the fitted samples that a first round has, and the fewest."""
FINALISTS = 3
"""Selections that are tried again at most; where there are no more, there is no first round."""
CLOSE = 1.3
"""Those that are tried again are at most so many times as far as the nearest. If nobody is so near,
the nearest is not either."""
BEHIND = "in a first, rougher trial, when others were nearer"
"""Why a selection was not tried again."""


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share: the same quick repair, judged on the same held-out samples."""

    dense: nn.Module
    calibration: Calibration
    teacher: Teacher
    held_out: Tensor
    """Inputs [n, ...] that no repair is fitted to, and mixtures of them."""
    wanted: Sequence[Tensor]
    """What the dense network answers to them."""
    rows: int = QUICK_REPAIR_ROWS
    """Positions of each layer that the quick repair fits."""
    alternations: int = ALTERNATIONS
    """Of the quick repair, see `pipeline.repair.ridge`."""

    @cached_property
    def targets(self) -> DenseTargets:
        """The dense network's outputs, to which the quick repair fits every layer."""
        samples = self.calibration
        return dense_targets(self.dense, samples.inputs, samples.fitted, self.rows, samples.memory)

    def try_plan(self, plan: PruningPlan) -> tuple[nn.Module, float]:
        """The pruned network, repaired, and its distance from the dense one; inf if not finite."""
        network = apply_plan(self.dense, plan)
        resolve_layers(network, plan, self.targets, 0, self.alternations)
        return network, distance_from(self.teacher, network, self.held_out, self.wanted)

    def rough(self) -> "TrialSetup":
        """The same with fewer samples and rows to fit, once each, judged alike."""
        samples = max(ROUGH_SAMPLES, round(ROUGH_SHARE * self.calibration.fitted))
        part = self.calibration.first(samples)
        return replace(self, calibration=part, rows=ROUGH_REPAIR_ROWS, alternations=0)


def trial_setup(dense: nn.Module, calibration: Calibration, loss: Loss) -> TrialSetup:
    """Trials on all of the samples."""
    mixed = calibration.with_mixtures()
    held_out = mixed[mixed.fitted : len(mixed)]
    teacher = teacher_for_loss(dense, loss, [held_out], temperature=1.0)
    return TrialSetup(dense, calibration, teacher, held_out, answers(teacher, held_out))


@lack_of_memory_refused("trying selections")
def choose_by_trial(
    prunable: PrunableNetwork,
    stats: Mapping[str, LayerStats],
    selections: Sequence[Selection],
    limits: Limits | None,
    setup: TrialSetup,
    notes: TrialNotes = TrialNotes(),  # noqa: B008, frozen
) -> tuple[Choice, tuple[Trial, ...]]:
    """The choice whose pruned network, repaired, is nearest to the dense one; and every trial.

    Not by accuracy: a trained network is right on nearly all of its own training samples.
    Of many, only those that are nearest after a rougher repair are tried in full, and none where
    one is nearer than all others by far. A selection that fails is passed over. What stands in
    `notes`, of the same plans in the same places, is not tried again. Raises StageError when all
    of them fail.
    """
    choices: dict[int, Choice] = {}
    trials: dict[int, Trial] = {}
    for place, selection in enumerate(selections):
        try:
            choices[place] = choose(prunable, stats, selection, limits)
        except StageError as error:
            trials[place] = _trial(selection, None, str(error))
    rough: dict[int, Trial] = {}
    if len(choices) > FINALISTS:
        log.info("  a rougher trial of each first:")
        rough = _tried(choices, setup.rough(), "rough", notes)
        distances = _distances(rough)
        near = finalists(distances)
        for place in distances.keys() - near:
            rough[place] = rough[place].model_copy(update={"reason": BEHIND})
        trials.update(rough)
        choices = {place: choices[place] for place in near}
    if not rough or len(choices) > 1:
        log.info("  %s in full:", "and of the nearest" if rough else "a trial of each")
        trials.update(_tried(choices, setup, "full", notes))
    found = _distances({place: trials[place] for place in choices})
    if not found:
        last = trials[len(selections) - 1]
        raise StageError(f"no way to prune this network worked; the last one: {last.reason}")
    return choices[min(found, key=lambda place: found[place])], tuple(
        trials[place] for place in range(len(selections))
    )


def _tried(
    choices: Mapping[int, Choice], setup: TrialSetup, round_name: str, notes: TrialNotes
) -> dict[int, Trial]:
    """A trial of each choice, by its place: as it was noted, or made and noted now."""
    trials = {}
    for place, choice in choices.items():
        name = f"{round_name} {place} {value_digest(choice.plan.model_dump(mode='json'))}"
        found = notes.finished.get(name)
        if found is None:
            found = _trial_of(choice, setup)
            notes.note(name, found)
            if found.distance is not None:
                log.info("  %s, %s: %.4f", found.criterion, found.allocator, found.distance)
        trials[place] = found
    return trials


def _trial_of(choice: Choice, setup: TrialSetup) -> Trial:
    distance, reason = inf, "its outputs are not finite"
    try:
        _, distance = setup.try_plan(choice.plan)
    except StageError as error:
        reason = str(error)
    if isfinite(distance):
        return _trial(choice.selection, distance, "")
    return _trial(choice.selection, None, reason)


def _distances(trials: Mapping[int, Trial]) -> dict[int, float]:
    """Of the trials that came to one, by their places."""
    found = {place: trial.distance for place, trial in trials.items()}
    return {place: distance for place, distance in found.items() if distance is not None}


def finalists(rough: Mapping[int, float]) -> list[int]:
    """The places, by their rough distances, that are tried again in full, the nearest first.

    One alone is nearer than all others by far, and needs no other trial.
    """
    order = sorted(rough, key=lambda place: rough[place])[:FINALISTS]
    return [place for place in order if rough[place] <= CLOSE * rough[order[0]]]


def _trial(selection: Selection, distance: float | None, reason: str) -> Trial:
    names = name_of(selection.criterion), name_of(selection.allocator)
    return Trial(criterion=names[0], allocator=names[1], distance=distance, reason=reason)
