"""slimgate inside your own program: prune a network in memory, train it as you always do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from pipeline.network.calibration import Calibration, calibration_of_batches
from pipeline.network.computed_weights import refuse_computed_weights
from pipeline.network.copies import copy_of
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.proof_inputs import proof_samples
from pipeline.prune.auto import auto_selections
from pipeline.prune.channel_counts import Limits, Widths
from pipeline.prune.choose import Selection, choose
from pipeline.prune.prunable import find_prunable, refusals, verify
from pipeline.prune.statistics import needs_of, statistics
from pipeline.prune.trials import choose_by_trial, trial_setup
from pipeline.repair.chain import repair
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.scoring.collect import Loss
from pipeline.store.reports import RecoveryReport
from pipeline.task import cross_entropy
from profiles.device import load_device

__all__ = [
    "PrunedNetwork",
    "PruningPlan",
    "Selection",
    "Widths",
    "apply_plan",
    "auto_selections",
    "device_widths",
    "prune",
]

AUTO = auto_selections()


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network and how it came to be."""

    network: nn.Module
    """The network with smaller layers, in eval mode; the one that was given is unchanged."""
    plan: PruningPlan
    """The channels that every layer keeps: `apply_plan(build(), plan)` has the network's shape,
    and then loads its state."""
    macs_ratio: float
    """MACs kept / dense MACs of one sample; 1 MAC = 2 FLOPs."""
    recoveries: tuple[RecoveryReport, ...]
    """What each recovery did, in the order they ran."""
    remarks: tuple[str, ...]
    """Which groups were not pruned and why, and what the allocator says about the result."""


def prune(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    macs_ratio: float,
    *,
    selection: Selection | Sequence[Selection] = AUTO,
    recoveries: Sequence[Recovery] = (LeastSquares(),),
    loss: Loss = cross_entropy,
) -> PrunedNetwork:
    """Prune to `macs_ratio` of the MACs and repair without training.

    `batches` of inputs and targets, as a DataLoader gives them, are held in memory together: a
    thousand samples are enough. Several ways to select channels are tried, as "auto" does in a
    recipe, and the one whose repaired network answers most like `network` is taken:
    `selection=auto_selections(device_widths("raspberry-pi-5"))` tries them at the widths that suit
    a device, `auto_selections(Widths(multiple=8))` at others, and
    `selection=Selection(criterion=Taylor(), allocator=Uniform())` is one way, without trials.
    Raises StageError where the network cannot be pruned so far.
    """
    refuse_computed_weights(network)  # they cannot be copied either
    network = copy_of(network).eval()
    device = next(network.parameters()).device
    calibration = calibration_of_batches(
        (inputs.to(device), np.asarray(targets.cpu())) for inputs, targets in batches
    )
    return prune_calibrated(network, calibration, macs_ratio, selection, recoveries, loss)


def device_widths(device: str) -> Widths:
    """The widths that suit a device, by the name of its profile or the path of your own `.toml`.

    Raises ConfigError where there is no such profile.
    """
    multiple = load_device(device, Path()).channel_multiple
    return Widths(multiple, floor=multiple)


def prune_calibrated(
    network: nn.Module,
    calibration: Calibration,
    macs_ratio: float,
    selection: Selection | Sequence[Selection],
    recoveries: Sequence[Recovery],
    loss: Loss,
) -> PrunedNetwork:
    """As `prune`, on samples that are in memory already; `network` is in eval mode."""
    example = proof_samples(calibration.inputs)
    prunable = find_prunable(network, example)
    ways = [selection] if isinstance(selection, Selection) else list(selection)
    needs = needs_of([one.criterion for one in ways], [one.allocator for one in ways])
    stats = statistics(prunable, calibration, loss, needs)
    limits = Limits(macs=macs_ratio * prunable.macs)
    if len(ways) == 1:
        choice = choose(prunable, stats, ways[0], limits)
    else:
        setup = trial_setup(network, calibration, loss)
        choice, _ = choose_by_trial(prunable, stats, ways, limits, setup)
    verify(prunable, choice.plan, example)
    small = apply_plan(network, choice.plan)
    reports = repair(small, network, choice.plan, recoveries, calibration, loss)
    kept = prunable.macs_at(choice.counts()) / prunable.macs
    remarks = (*refusals(prunable), *choice.remarks)
    return PrunedNetwork(small, choice.plan, kept, reports, remarks)
