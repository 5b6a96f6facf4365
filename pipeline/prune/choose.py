"""What to remove: a network's groups, a criterion and an allocator make a plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import Float64, IntArray
from pipeline.network.calibration import Calibration
from pipeline.network.costs import Counts, MacsModel, macs_model
from pipeline.network.groups import Groups, fault, find_groups, make_plan
from pipeline.network.plan import PruningPlan
from pipeline.network.run import outputs_of
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.prune.channel_counts import Limits, candidates_of, counts_at, counts_for
from pipeline.prune.criteria import Criterion, group_scores
from pipeline.scoring.collect import LayerStats, Loss, Need, collect
from pipeline.scoring.elimination import Elimination
from pipeline.scoring.second_moments import eliminations
from profiles.errors import StageError

SCORED_AT_A_TIME = 32
MOMENT_ROWS = 64_000
"""Positions of each layer from which its second moments come."""


@dataclass(frozen=True)
class Widths:
    """What a layer may keep: multiples of channels, and no fewer than the floors."""

    multiple: int = 1
    floor: int = 1
    floor_ratio: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A network about to be pruned, and what can be pruned of it."""

    network: nn.Module
    found: Groups
    model: MacsModel
    macs: int
    """Dense MACs of one sample; 1 MAC = 2 FLOPs."""


@dataclass(frozen=True)
class Choice:
    """A plan, and why."""

    plan: PruningPlan
    units: Mapping[str, IntArray]
    """The kept units of each group, sorted."""
    scores: Mapping[str, Float64]
    remarks: tuple[str, ...]

    def counts(self) -> Counts:
        return {name: len(kept) for name, kept in self.units.items()}


def subject_of(network: nn.Module, example: Tensor) -> Subject:
    """Find the groups of `network`, in eval mode, on `example` [n, ...].

    Raises StageError for a network without groups, or one that answers differently each time.
    """
    with torch.no_grad():
        first, second = outputs_of(network, example), outputs_of(network, example)
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise StageError(
            "the network answers differently to the same input: take the randomness out of its "
            "forward function, or make it depend on self.training"
        )
    found = find_groups(network, example)
    if not found.groups:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.refused.items())
        raise StageError(f"the network has nothing to prune ({reasons or 'no group found'})")
    model = macs_model(network, example[:1])
    return Subject(network, found, model, model.total((), {}))


def statistics(
    subject: Subject, calibration: Calibration, loss: Loss, needs: frozenset[Need]
) -> dict[str, LayerStats]:
    """What `needs` asks for of every layer that writes or reads a group, by its name."""
    network, groups = subject.network, subject.found.groups
    feeds = ((x.cpu().numpy(), y) for x, y in calibration.batches(SCORED_AT_A_TIME))
    stats = collect(network, groups, feeds, loss, needs - {"moments"})
    if "moments" in needs:
        mixed = calibration.mixed()
        for name, one in eliminations(
            network, groups, mixed.inputs[: mixed.fitted], MOMENT_ROWS
        ).items():
            stats[name] = replace(stats[name], elimination=one)
    return stats


def choose(
    subject: Subject,
    stats: Mapping[str, LayerStats],
    criterion: Criterion,
    allocator: Allocator,
    limits: Limits | None,
    widths: Widths,
) -> Choice:
    """The plan within `limits`, or at the allocator's own ratios without any.

    Raises StageError when the criterion or the allocator cannot judge a group, when the limits
    are beyond reach, and when nothing says how much to prune.
    """
    groups = subject.found.groups
    scores = {group.name: group_scores(criterion, group, stats) for group in groups}
    errors = {name: np.array(one.errors) for name, one in _eliminations(stats).items()}
    candidates = candidates_of(subject.network, groups, subject.model, scores, errors)
    counts = _counts(subject, candidates, allocator, limits, widths)
    units = {name: _best(scores[name], kept) for name, kept in counts.items()}
    plan = make_plan(subject.network, groups, units)
    return Choice(plan, units, scores, allocator.remarks(candidates, counts))


def needs_of(criteria: Iterable[Criterion], allocators: Iterable[Allocator]) -> frozenset[Need]:
    """All that these have to know."""
    moments: frozenset[Need] = frozenset({"moments"})
    needs = [criterion.needs for criterion in criteria]
    needs += [moments for allocator in allocators if allocator.needs_errors]
    return frozenset().union(*needs)


def verify(subject: Subject, plan: PruningPlan, example: Tensor) -> None:
    """Raise StageError unless removing the plan's channels is the same as silencing them."""
    wrong = fault(subject.network, plan, example)
    if wrong:
        raise StageError(f"the pruned network is not the network without its channels: {wrong}")


def _counts(
    subject: Subject,
    candidates: Sequence[Candidate],
    allocator: Allocator,
    limits: Limits | None,
    widths: Widths,
) -> Counts:
    sizes = (widths.multiple, widths.floor, widths.floor_ratio)
    if limits is not None:
        return counts_for(allocator, candidates, subject.model, limits, *sizes)
    knob = allocator.knob()
    if knob is None:
        raise StageError("how much to prune? set a target, or the allocator's own ratios")
    return counts_at(allocator, candidates, knob, *sizes)


def _eliminations(stats: Mapping[str, LayerStats]) -> dict[str, Elimination]:
    return {name: layer.elimination for name, layer in stats.items() if layer.elimination}


def _best(scores: Float64, kept: int) -> IntArray:
    """The units with the highest scores, sorted."""
    return np.sort(np.argsort(-scores, kind="stable")[:kept])
