"""The criterion and the allocator chosen by trial on held-out samples."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from half_pruned import images, same, state_of
from networks import Chain, Concat, Grouped, Residual, trained
from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.distance import teacher_for_loss
from pipeline.network.plan import apply_plan
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Selection, choose
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.prunable import PrunableNetwork, find_prunable
from pipeline.prune.statistics import needs_of, statistics
from pipeline.prune.trial_notes import TrialNotes
from pipeline.prune.trials import (
    BEHIND,
    CLOSE,
    FINALISTS,
    ROUGH_SAMPLES,
    choose_by_trial,
    trial_setup,
)
from pipeline.repair.chain import answers, distance_from
from pipeline.scoring.collect import LayerStats
from pipeline.store.reports import Trial
from pipeline.task import cross_entropy
from profiles.errors import StageError

CRITERIA: tuple[Criterion, ...] = (Magnitude(), Reconstruction(), Taylor(), Random())
ALLOCATORS: tuple[Allocator, ...] = (by_reconstruction.Reconstruction(), Uniform())


def calibration(count: int = 120) -> Calibration:
    return Calibration(images(count), np.arange(count) % 4, count // 6)


def tried(
    prunable: PrunableNetwork,
    criteria: Sequence[Criterion] = CRITERIA,
    allocators: Sequence[Allocator] = ALLOCATORS,
    ratio: float = 0.5,
    notes: TrialNotes = TrialNotes(),  # noqa: B008, frozen
) -> tuple[Choice, tuple[Trial, ...]]:
    samples = calibration()
    needs = needs_of(criteria, allocators)
    stats = statistics(prunable, samples, cross_entropy, needs)
    limits = Limits(macs=ratio * prunable.macs)
    setup = trial_setup(prunable.network, samples, cross_entropy)
    selections = [Selection(one, by) for by in allocators for one in criteria]
    return choose_by_trial(prunable, stats, selections, limits, setup, notes)


@pytest.mark.parametrize("kind", [Chain, Residual, Grouped])
def test_the_selection_of_the_least_distance_is_chosen(kind: type[nn.Module]) -> None:
    dense = trained(kind)
    before = state_of(dense)
    prunable = find_prunable(dense, images(1))
    choice, trials = tried(prunable)
    names = [(trial.criterion, trial.allocator) for trial in trials]
    criteria = ("magnitude", "reconstruction", "taylor", "random")
    assert names == [(c, a) for a in ("reconstruction", "uniform") for c in criteria]
    distances = [trial.distance for trial in trials]
    found = [distance for distance in distances if distance is not None]
    assert len(found) == len(distances)
    chosen = list(zip(CRITERIA * 2, (a for a in ALLOCATORS for _ in CRITERIA), strict=True))
    in_full = [place for place, trial in enumerate(trials) if not trial.reason]
    best = chosen[min(in_full, key=lambda place: found[place])]
    assert (choice.selection.criterion, choice.selection.allocator) == best
    assert 1 <= len(in_full) <= FINALISTS
    assert {trial.reason for trial in trials} == {"", BEHIND}
    kept = prunable.macs_at(choice.counts())
    assert kept <= 0.5 * prunable.macs
    apply_plan(dense, choice.plan)
    assert same(before, dense)


def test_the_choice_is_no_worse_than_any_pair_alone_and_the_same_every_time() -> None:
    prunable = find_prunable(trained(Residual), images(1))
    whole, trials = tried(prunable)
    best = min(trial.distance or 0.0 for trial in trials)
    for criterion in CRITERIA:
        for allocator in ALLOCATORS:
            _, (alone,) = tried(prunable, [criterion], [allocator])
            assert alone.distance is not None
            assert best <= alone.distance * (1 + 1e-6)
    again, trials_again = tried(prunable)
    assert trials_again == trials
    assert again.plan == whole.plan


def test_a_rougher_trial_of_each_says_which_are_tried_in_full() -> None:
    prunable, samples = find_prunable(trained(Residual), images(1)), calibration()
    _, trials = tried(prunable)
    setup = trial_setup(prunable.network, samples, cross_entropy)
    rough = setup.rough()
    assert len(rough.targets.inputs) == ROUGH_SAMPLES + samples.held_out
    assert torch.equal(rough.targets.inputs[:ROUGH_SAMPLES], samples.inputs[:ROUGH_SAMPLES])
    assert torch.equal(rough.targets.inputs[ROUGH_SAMPLES:], samples.inputs[samples.fitted :])
    assert rough.held_out is setup.held_out
    stats = statistics(prunable, samples, cross_entropy, needs_of(CRITERIA, ALLOCATORS))
    limits = Limits(macs=0.5 * prunable.macs)
    choices = [
        choose(prunable, stats, Selection(one, by), limits) for by in ALLOCATORS for one in CRITERIA
    ]
    roughly = [rough.try_plan(choice.plan)[1] for choice in choices]
    order = sorted(range(len(choices)), key=lambda place: roughly[place])[:FINALISTS]
    near = [place for place in order if roughly[place] <= CLOSE * roughly[order[0]]]
    assert [place for place, trial in enumerate(trials) if not trial.reason] == sorted(near)
    for place, (trial, choice) in enumerate(zip(trials, choices, strict=True)):
        full = place in near and len(near) > 1
        assert trial.distance == (setup.try_plan(choice.plan)[1] if full else roughly[place])


@pytest.mark.parametrize("finished", [1, len(CRITERIA) * len(ALLOCATORS) + 1])
def test_a_choice_goes_on_after_the_trials_that_were_noted(finished: int) -> None:
    prunable = find_prunable(trained(Residual), images(1))
    noted: list[tuple[str, Trial]] = []
    whole, trials = tried(prunable, notes=TrialNotes(note=lambda *one: noted.append(one)))
    assert len(noted) > finished
    rest: list[tuple[str, Trial]] = []
    notes = TrialNotes(dict(noted[:finished]), lambda *one: rest.append(one))
    again, trials_again = tried(prunable, notes=notes)
    assert rest == noted[finished:]
    assert trials_again == trials
    assert again.plan == whole.plan


@pytest.mark.parametrize(
    ("nearest", "in_full"),
    [
        ((1.0, 1.31), []),
        ((1.31, 1.0, 1.4), []),
        ((1.2, 1.0), [0, 1]),
        ((1.0, 1.1, 1.2, 1.1), [0, 1, 3]),
    ],
)
def test_only_those_near_the_nearest_are_tried_in_full_and_nobody_beside_one_that_is_nearer_by_far(
    nearest: Sequence[float], in_full: Sequence[int]
) -> None:
    prunable = find_prunable(trained(Residual), images(1))
    noted: list[tuple[str, Trial]] = []
    tried(prunable, notes=TrialNotes(note=lambda *one: noted.append(one)))
    distances = [*nearest, *[9.0] * len(CRITERIA) * len(ALLOCATORS)]
    finished = {
        name: trial.model_copy(update={"distance": distance})
        for (name, trial), distance in zip(noted, distances, strict=False)
        if name.startswith("rough")
    }
    assert len(finished) == len(CRITERIA) * len(ALLOCATORS)
    after: list[str] = []
    notes = TrialNotes(finished, lambda name, _: after.append(name))
    choice, trials = tried(prunable, notes=notes)
    assert sorted(int(name.split()[1]) for name in after) == in_full
    near = in_full or [int(np.argmin(nearest))]
    assert [place for place, trial in enumerate(trials) if not trial.reason] == near
    best = min(near, key=lambda place: trials[place].distance or 0.0)
    assert choice.selection.criterion == CRITERIA[best]


def test_a_trial_that_failed_is_noted_and_not_tried_again() -> None:
    prunable = find_prunable(trained(Chain), images(1))
    failed = Trial(criterion="magnitude", allocator="uniform", distance=None, reason="as noted")
    names: list[str] = []
    tried(
        prunable,
        [Magnitude()],
        [Uniform()],
        notes=TrialNotes(note=lambda *one: names.append(one[0])),
    )
    with pytest.raises(StageError, match=r"no way to prune this network worked.*as noted"):
        tried(prunable, [Magnitude()], [Uniform()], notes=TrialNotes({names[0]: failed}))


def test_what_was_noted_of_another_plan_in_the_same_place_is_not_believed() -> None:
    prunable = find_prunable(trained(Chain), images(1))
    noted: dict[str, Trial] = {}
    tried(prunable, [Magnitude()], [Uniform()], notes=TrialNotes(note=noted.__setitem__))
    again: dict[str, Trial] = {}
    tried(prunable, [Random()], [Uniform()], notes=TrialNotes(noted, again.__setitem__))
    assert len(again) == 1


def test_a_trial_is_repaired_before_it_is_judged() -> None:
    prunable, samples = find_prunable(trained(Residual), images(1)), calibration()
    choice, (trial,) = tried(prunable, [Magnitude()], [Uniform()])
    mixed = samples.with_mixtures()
    held = mixed[mixed.fitted : len(mixed)]
    teacher = teacher_for_loss(prunable.network, cross_entropy, [held], temperature=1.0)
    small = apply_plan(prunable.network, choice.plan)
    raw = distance_from(teacher, small, held, answers(teacher, held))
    assert trial.distance is not None
    assert trial.distance < 0.7 * raw


class Refuses(Criterion):
    """Cannot score anything."""

    def score(self, layer: LayerStats) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        raise StageError(f"{layer.name}: not with me")


class Keeps(Allocator):
    """Reaches no target."""

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        return [1.0] * len(candidates)

    def knob(self) -> float | None:
        return None


def test_a_pair_that_fails_is_passed_over_with_its_reason() -> None:
    prunable = find_prunable(trained(Chain), images(1))
    choice, trials = tried(prunable, [Refuses(), Magnitude()], [Keeps(), Uniform()])
    found = [trial.distance is not None for trial in trials]
    assert found == [False, False, False, True]
    assert trials[0].reason == "conv1: not with me"
    assert "reaches no less than 1.000 of dense" in trials[1].reason
    assert isinstance(choice.selection.criterion, Magnitude)
    assert isinstance(choice.selection.allocator, Uniform)


def test_when_every_pair_fails_the_last_reason_is_told() -> None:
    prunable = find_prunable(trained(Chain), images(1))
    with pytest.raises(StageError, match=r"no way to prune this network worked.*not with me"):
        tried(prunable, [Refuses()], [Uniform()])
    with pytest.raises(StageError, match="no way to prune this network worked"):
        tried(prunable, ratio=1e-6)


def test_a_network_that_reconstruction_cannot_prune_is_pruned_by_another_pair() -> None:
    prunable = find_prunable(trained(Concat), images(1))  # a transposed convolution reads a group
    choice, trials = tried(prunable, [Reconstruction(), Magnitude()])
    assert {t.criterion for t in trials if t.distance is not None} == {"magnitude"}
    assert any("'reconstruction' cannot score" in trial.reason for trial in trials)
    with torch.no_grad():
        assert bool(apply_plan(prunable.network, choice.plan)(images(2)).isfinite().all())
