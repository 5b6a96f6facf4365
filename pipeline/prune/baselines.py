"""Networks that a pruned one ought to beat."""

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from pipeline.data.batches import batches
from pipeline.network.groups import make_plan
from pipeline.network.plan import PruningPlan, compose
from pipeline.network.run import outputs_of
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, Widths, candidates_of, largest_counts_within
from pipeline.prune.prunable import PrunableNetwork
from pipeline.prune.trials import TrialSetup
from pipeline.store.reports import Baseline
from pipeline.task import Task


def random_plan(
    prunable: PrunableNetwork, counts: Mapping[str, int], skipped: tuple[str, ...], seed: int
) -> PruningPlan:
    """As many units of each group as `counts` says, at random; the same blocks skipped."""
    generator = np.random.default_rng(seed)
    units = {
        group.name: np.sort(generator.permutation(group.size)[: counts.get(group.name, group.size)])
        for group in prunable.groups
    }
    plan = make_plan(prunable.network, prunable.groups, units)
    return compose(plan, PruningPlan(layers={}, skipped=skipped))


def even_plan(prunable: PrunableNetwork, macs: int) -> PruningPlan:
    """The same part of every group, the first units, with at most `macs` MACs."""
    groups, model = prunable.groups, prunable.macs_model
    scores = {group.name: -np.arange(group.size, dtype=np.float64) for group in groups}
    candidates = candidates_of(prunable.network, groups, model, scores, {})
    counts = largest_counts_within(Limits(macs=macs), Uniform(), candidates, model, Widths())
    return make_plan(prunable.network, groups, {n: np.arange(k) for n, k in counts.items()})


def repaired_baseline(name: str, setup: TrialSetup, plan: PruningPlan) -> Baseline:
    """The distance that is left after pruning by `plan` and a quick repair."""
    _, distance = setup.try_plan(plan)
    return Baseline(name=name, distance=distance if isfinite(distance) else None, score=None)


def reset_weights(network: nn.Module, seed: int) -> None:
    """Draw new weights, in place, for every layer that has `reset_parameters`."""
    torch.manual_seed(seed)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


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


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau between the first and the second of each pair; None where it has no value."""
    if not pairs:
        return None
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return tau if isfinite(tau) else None
