"""The criterion and the allocator chosen by trial on held-out samples."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from half_pruned import images, same, state_of
from networks import Chain, Concat, Grouped, Residual, trained
from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.distance import teacher_for
from pipeline.network.plan import apply_plan
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Subject, Widths, needs_of, statistics, subject_of
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.trials import Picked, course_of, pick
from pipeline.repair.chain import distance_from
from pipeline.scoring.collect import LayerStats
from pipeline.task import cross_entropy
from profiles.errors import StageError

CRITERIA: tuple[Criterion, ...] = (Magnitude(), Reconstruction(), Taylor(), Random())
ALLOCATORS: tuple[Allocator, ...] = (by_reconstruction.Reconstruction(), Uniform())


def calibration(count: int = 120) -> Calibration:
    return Calibration(images(count), np.arange(count) % 4, count // 6)


def tried(
    subject: Subject,
    criteria: Sequence[Criterion] = CRITERIA,
    allocators: Sequence[Allocator] = ALLOCATORS,
    ratio: float = 0.5,
) -> Picked:
    samples = calibration()
    needs = needs_of(criteria, allocators)
    stats = statistics(subject, samples, cross_entropy, needs)
    limits = Limits(macs=ratio * subject.macs)
    course = course_of(subject.network, samples, cross_entropy)
    return pick(subject, stats, course, criteria, allocators, limits, Widths())


@pytest.mark.parametrize("kind", [Chain, Residual, Grouped])
def test_the_least_distance_of_the_table_is_picked(kind: type[nn.Module]) -> None:
    dense = trained(kind)
    before = state_of(dense)
    subject = subject_of(dense, images(1))
    picked = tried(subject)
    names = [(trial.criterion, trial.allocator) for trial in picked.trials]
    criteria = ("magnitude", "reconstruction", "taylor", "random")
    assert names == [(c, a) for a in ("reconstruction", "uniform") for c in criteria]
    distances = [trial.distance for trial in picked.trials]
    found = [distance for distance in distances if distance is not None]
    assert len(found) == len(distances)
    chosen = list(zip(CRITERIA * 2, (a for a in ALLOCATORS for _ in CRITERIA), strict=True))
    assert (picked.criterion, picked.allocator) == chosen[found.index(min(found))]
    assert all(not trial.reason for trial in picked.trials)
    kept = subject.model.total(subject.found.groups, picked.choice.counts())
    assert kept <= 0.5 * subject.macs
    apply_plan(dense, picked.choice.plan)
    assert same(before, dense)


def test_the_pick_is_no_worse_than_any_pair_alone_and_the_same_every_time() -> None:
    subject = subject_of(trained(Residual), images(1))
    whole = tried(subject)
    best = min(trial.distance or 0.0 for trial in whole.trials)
    for criterion in CRITERIA:
        for allocator in ALLOCATORS:
            (alone,) = tried(subject, [criterion], [allocator]).trials
            assert alone.distance is not None
            assert best <= alone.distance * (1 + 1e-6)
    again = tried(subject)
    assert again.trials == whole.trials
    assert again.choice.plan == whole.choice.plan


def test_a_trial_is_repaired_before_it_is_judged() -> None:
    subject, samples = subject_of(trained(Residual), images(1)), calibration()
    (trial,) = tried(subject, [Magnitude()], [Uniform()]).trials
    plan = tried(subject, [Magnitude()], [Uniform()]).choice.plan
    held = samples.mixed().inputs[samples.mixed().fitted :]
    teacher = teacher_for(subject.network, cross_entropy, [held], temperature=1.0)
    raw = distance_from(teacher, apply_plan(subject.network, plan), held)
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
    subject = subject_of(trained(Chain), images(1))
    picked = tried(subject, [Refuses(), Magnitude()], [Keeps(), Uniform()])
    found = [trial.distance is not None for trial in picked.trials]
    assert found == [False, False, False, True]
    assert picked.trials[0].reason == "conv1: not with me"
    assert "reaches no less than 1.000 of dense" in picked.trials[1].reason
    assert isinstance(picked.criterion, Magnitude)
    assert isinstance(picked.allocator, Uniform)


def test_when_every_pair_fails_the_last_reason_is_told() -> None:
    subject = subject_of(trained(Chain), images(1))
    with pytest.raises(StageError, match=r"no way to prune this network worked.*not with me"):
        tried(subject, [Refuses()], [Uniform()])
    with pytest.raises(StageError, match="no way to prune this network worked"):
        tried(subject, ratio=1e-6)


def test_a_network_that_reconstruction_cannot_prune_is_pruned_by_another_pair() -> None:
    subject = subject_of(trained(Concat), images(1))  # a transposed convolution reads a group
    picked = tried(subject, [Reconstruction(), Magnitude()])
    assert {t.criterion for t in picked.trials if t.distance is not None} == {"magnitude"}
    assert any("'reconstruction' cannot score" in trial.reason for trial in picked.trials)
    with torch.no_grad():
        assert bool(apply_plan(subject.network, picked.choice.plan)(images(2)).isfinite().all())
