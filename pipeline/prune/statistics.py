"""What criteria and allocators need to know of the layers, collected on calibration samples."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.data.progress import progress
from pipeline.network.calibration import Calibration
from pipeline.network.spool import First
from pipeline.prune.allocators import Allocator
from pipeline.prune.criteria import Criterion
from pipeline.prune.prunable import PrunableNetwork
from pipeline.scoring.collect import BATCH_SAMPLES, LayerStats, Loss, Need, collect
from pipeline.scoring.second_moments import eliminations

MOMENT_ROWS = 64_000
"""Positions of each layer from which its second moments come."""


def needs_of(criteria: Iterable[Criterion], allocators: Iterable[Allocator]) -> frozenset[Need]:
    """All that these criteria and allocators have to know."""
    moments: frozenset[Need] = frozenset({"moments"})
    needs = [criterion.needs for criterion in criteria]
    needs += [moments for allocator in allocators if allocator.needs_errors]
    return frozenset().union(*needs)


def statistics(
    prunable: PrunableNetwork, calibration: Calibration, loss: Loss, needs: frozenset[Need]
) -> dict[str, LayerStats]:
    """What `needs` asks for of every layer that writes or reads a group, by the layer's name."""
    network, groups = prunable.network, prunable.groups
    feeds = progress(
        "batches scored",
        calibration.array_batches(BATCH_SAMPLES),
        -(-calibration.fitted // BATCH_SAMPLES),
    )
    stats = collect(network, groups, feeds, loss, needs - {"moments"})
    if "moments" in needs:
        mixed = calibration.with_mixtures()
        fitted = First(mixed, mixed.fitted)
        for name, one in eliminations(network, groups, fitted, MOMENT_ROWS).items():
            stats[name] = replace(stats[name], elimination=one)
    return stats
