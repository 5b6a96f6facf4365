"""slimgate inside your own program: prune a network in memory, train it as you always do."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from pipeline.network.calibration import Calibration, calibration_from
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.prune.allocators import Allocator
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Widths, choose, needs_of, statistics, subject_of, verify
from pipeline.prune.criteria import Criterion, reconstruction
from pipeline.repair.chain import repair
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.scoring.collect import Loss
from pipeline.store.reports import RecoveryReport
from pipeline.task import cross_entropy

__all__ = ["Slim", "Widths", "apply_plan", "prune"]


@dataclass(frozen=True)
class Slim:
    """A pruned network and how it came to be."""

    network: nn.Module
    """Smaller layers, in eval mode; the network that was given is unchanged."""
    plan: PruningPlan
    """`apply_plan(build(), plan)` has its shape; then load its state."""
    macs_ratio: float
    """MACs kept / dense MACs of one sample; 1 MAC = 2 FLOPs."""
    recoveries: tuple[RecoveryReport, ...]
    remarks: tuple[str, ...]


def prune(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    macs_ratio: float,
    *,
    criterion: Criterion | None = None,
    allocator: Allocator | None = None,
    recoveries: Sequence[Recovery] = (LeastSquares(),),
    loss: Loss = cross_entropy,
    widths: Widths | None = None,
) -> Slim:
    """Prune to `macs_ratio` of the MACs and repair without training.

    `batches` of inputs and targets, as a DataLoader gives them, are held in memory together: a
    thousand samples are enough. Raises StageError where the network cannot be pruned so far.
    """
    network = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    calibration = calibration_from(
        (inputs.to(device), np.asarray(targets.cpu())) for inputs, targets in batches
    )
    return pruned(
        network,
        calibration,
        macs_ratio,
        criterion or reconstruction.Reconstruction(),
        allocator or by_reconstruction.Reconstruction(),
        recoveries,
        loss,
        widths or Widths(),
    )


def pruned(
    network: nn.Module,
    calibration: Calibration,
    macs_ratio: float,
    criterion: Criterion,
    allocator: Allocator,
    recoveries: Sequence[Recovery],
    loss: Loss,
    widths: Widths,
) -> Slim:
    """The same on samples that are in memory already."""
    example = calibration.inputs[:1]
    subject = subject_of(network, example)
    stats = statistics(subject, calibration, loss, needs_of([criterion], [allocator]))
    limits = Limits(macs=macs_ratio * subject.macs)
    choice = choose(subject, stats, criterion, allocator, limits, widths)
    verify(subject, choice.plan, example)
    small = apply_plan(network, choice.plan)
    reports = repair(small, network, choice.plan, recoveries, calibration, loss)
    kept = subject.model.total(subject.found.groups, choice.counts())
    return Slim(small, choice.plan, kept / subject.macs, reports, choice.remarks)
