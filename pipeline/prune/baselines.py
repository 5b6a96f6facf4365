"""Networks that a pruned one ought to beat."""

from collections.abc import Mapping
from math import isfinite

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import batches
from pipeline.network.groups import make_plan
from pipeline.network.plan import PruningPlan, compose
from pipeline.network.run import outputs_of
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, candidates_of, counts_for
from pipeline.prune.choose import Subject
from pipeline.prune.trials import Course
from pipeline.store.reports import Baseline
from pipeline.task import Task


def validation_score(network: nn.Module, task: Task) -> float:
    """The mean of the task's metric over the validation samples."""
    network.eval()
    device = next(network.parameters()).device
    scores = []
    for inputs, targets in batches(task.validation, range(len(task.validation)), 256):
        with torch.no_grad():
            outputs = outputs_of(network, torch.from_numpy(inputs).to(device))
        scores.append(np.asarray(task.metric(outputs.cpu().numpy(), targets)))
    return float(np.concatenate(scores).mean())


def _tried(name: str, course: Course, plan: PruningPlan) -> Baseline:
    _, distance = course.run(plan)
    return Baseline(name=name, distance=distance if isfinite(distance) else None, score=None)


def _random(
    subject: Subject, counts: Mapping[str, int], skipped: tuple[str, ...], seed: int
) -> PruningPlan:
    """As many units of each group as `counts` says, at random; the same blocks skipped."""
    generator = np.random.default_rng(seed)
    units = {
        group.name: np.sort(generator.permutation(group.size)[: counts.get(group.name, group.size)])
        for group in subject.found.groups
    }
    plan = make_plan(subject.network, subject.found.groups, units)
    return compose(plan, PruningPlan(layers={}, skipped=skipped))


def _even(subject: Subject, macs: int) -> PruningPlan:
    """The same part of every group, the first units, with at most `macs` MACs."""
    groups = subject.found.groups
    scores = {group.name: -np.arange(group.size, dtype=np.float64) for group in groups}
    candidates = candidates_of(subject.network, groups, subject.model, scores, {})
    counts = counts_for(Uniform(), candidates, subject.model, Limits(macs=macs), 1, 1)
    return make_plan(subject.network, groups, {n: np.arange(k) for n, k in counts.items()})


def _renew(network: nn.Module, seed: int) -> None:
    """Draw new weights for every layer that knows how to."""
    torch.manual_seed(seed)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
