"""The report on a pruning: what was asked, what was reached, and what could not be pruned."""

import numpy as np

from pipeline.data.arrays import Float64, IntArray
from pipeline.prune.choose import Choice
from pipeline.prune.prunable import PrunableNetwork
from pipeline.store.reports import GroupReport, PruneReport, Trial
from profiles.plugins import name_of


def prune_report(
    macs_ratio_asked: float | None,
    dense: PrunableNetwork,
    prunable: PrunableNetwork,
    choice: Choice,
    trials: tuple[Trial, ...],
) -> PruneReport:
    """The report on `choice` for `prunable`; units and MACs before are those of `dense`."""
    macs = prunable.macs_at(choice.counts())
    sizes = {group.name: group.size for group in dense.groups}
    groups = {
        name: _group_report(sizes[name], choice.scores[name], kept)
        for name, kept in choice.units.items()
    }
    return PruneReport(
        criterion=name_of(choice.selection.criterion),
        allocator=name_of(choice.selection.allocator),
        macs_ratio_asked=macs_ratio_asked,
        macs_ratio=macs / dense.macs,
        macs_dense=dense.macs,
        macs=macs,
        groups=groups,
        refused=dict(prunable.refused),
        trials=trials,
        widths_by_time=bool(choice.selection.widths.staircases),
        remarks=choice.remarks,
    )


def _group_report(units: int, scores: Float64, kept: IntArray) -> GroupReport:
    removed = np.delete(scores, kept)
    return GroupReport(
        units=units,
        kept=len(kept),
        lowest_kept=float(scores[kept].min()),
        highest_removed=float(removed.max()) if len(removed) else None,
    )
