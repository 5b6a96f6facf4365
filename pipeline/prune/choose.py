"""What to remove: a criterion and an allocator turn a prunable network into a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.arrays import Float64, IntArray
from pipeline.network.costs import Counts
from pipeline.network.groups import make_plan
from pipeline.network.plan import PruningPlan
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.channel_counts import (
    Limits,
    Widths,
    candidates_of,
    counts_at_knob,
    largest_counts_within,
)
from pipeline.prune.criteria import Criterion, group_scores, reconstruction
from pipeline.prune.prunable import PrunableNetwork
from pipeline.scoring.collect import LayerStats
from profiles.errors import StageError


@dataclass(frozen=True)
class Selection:
    """How channels are selected: which of a group go, and how many of each."""

    criterion: Criterion = field(default_factory=reconstruction.Reconstruction)
    """The criterion scores the channels; the lowest scores go first."""
    allocator: Allocator = field(default_factory=by_reconstruction.Reconstruction)
    """The allocator says how many channels each group keeps."""
    widths: Widths = field(default_factory=Widths)
    """The numbers of channels that a layer may keep."""


@dataclass(frozen=True)
class Choice:
    """A plan, and why."""

    selection: Selection
    """How the channels were selected."""
    plan: PruningPlan
    units: Mapping[str, IntArray]
    """The kept units of each group, sorted."""
    scores: Mapping[str, Float64]
    """The score of every unit of each group; larger is kept longer."""
    remarks: tuple[str, ...]
    """What the allocator has to say about the result."""

    def counts(self) -> Counts:
        """The number of units that each group keeps, by the group's name."""
        return {name: len(kept) for name, kept in self.units.items()}


def choose(
    prunable: PrunableNetwork,
    stats: Mapping[str, LayerStats],
    selection: Selection,
    limits: Limits | None,
) -> Choice:
    """The plan within `limits`, or at the allocator's own ratios without any.

    Raises StageError when the criterion or the allocator cannot judge a group, when the limits
    are beyond reach, and when nothing says how much to prune.
    """
    groups = prunable.groups
    scores = {group.name: group_scores(selection.criterion, group, stats) for group in groups}
    errors = {
        name: np.array(layer.elimination.errors)
        for name, layer in stats.items()
        if layer.elimination
    }
    model, widths = prunable.macs_model, selection.widths
    candidates = candidates_of(prunable.network, groups, model, scores, errors, widths)
    counts = _counts(prunable, candidates, selection, limits)
    units = {name: _highest(scores[name], kept) for name, kept in counts.items()}
    plan = make_plan(prunable.network, groups, units)
    remarks = selection.allocator.remarks(candidates, counts)
    return Choice(selection, plan, units, scores, remarks)


def _counts(
    prunable: PrunableNetwork,
    candidates: Sequence[Candidate],
    selection: Selection,
    limits: Limits | None,
) -> Counts:
    allocator, widths = selection.allocator, selection.widths
    if limits is not None:
        return largest_counts_within(limits, allocator, candidates, prunable.macs_model, widths)
    knob = allocator.knob()
    if knob is None:
        raise StageError(
            "nothing says how much to prune: give limits, such as Limits(macs=1e6), or an "
            "allocator with a ratio of its own, such as Uniform(pruning_ratio=0.5)"
        )
    return counts_at_knob(knob, allocator, candidates, widths)


def _highest(scores: Float64, kept: int) -> IntArray:
    """The places of the `kept` highest scores, sorted."""
    return np.sort(np.argsort(-scores, kind="stable")[:kept])
