"""What a pruning starts from: the network, what can be pruned of it, and what it is judged on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pipeline.network.calibration import Calibration
from pipeline.network.costs import Counts
from pipeline.network.layer_times import NetworkTimes
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.proof_inputs import proof_samples
from pipeline.network.run import outputs_of
from pipeline.prune.block_removal import plan_without_blocks
from pipeline.prune.channel_counts import Limits
from pipeline.prune.prunable import (
    PrunableNetwork,
    find_prunable,
    inspect_network,
    refusals,
    with_units_of,
)
from pipeline.store.artifacts import Checkpoint
from profiles.errors import StageError

log = logging.getLogger("slimgate")


@dataclass(frozen=True)
class Subject:
    """A network about to be pruned, in eval mode, the blocks that go whole gone already."""

    source: Checkpoint
    network: nn.Module
    without_blocks: PruningPlan
    """What took the blocks away."""
    example: Tensor
    """Samples [n, ...] on which pruning is proved."""
    calibration: Calibration
    prunable: PrunableNetwork
    dense: PrunableNetwork
    """The network that everything descends from; `macs` of it are what ratios are of."""

    def timed(self, times: Sequence[NetworkTimes]) -> "Subject":
        """The same when the times of its layers are known, device by device."""
        model = replace(self.prunable.macs_model, times=tuple(times))
        return replace(self, prunable=replace(self.prunable, macs_model=model))

    def limits(self, part: float) -> Limits:
        """That part of the dense network's time where times are known, else of its MACs."""
        if self.prunable.macs_model.times:
            return Limits(time=part)
        return Limits(macs=part * self.dense.macs)

    def part_kept(self, counts: Counts) -> float:
        """The part of that when groups keep `counts` of their units."""
        cost = self.prunable.macs_model.over(self.prunable.groups).at(counts)
        return cost.time if self.prunable.macs_model.times else cost.macs / self.dense.macs


def subject_of(source: Checkpoint, calibration: Calibration, blocks: int) -> Subject:
    """The subject that `source` is, without the `blocks` that change their input least.

    Raises StageError where nothing of it can be pruned.
    """
    device = calibration.inputs.device
    network = source.network().to(device)
    example = proof_samples(calibration.inputs)
    outputs_of(network, example)
    without_blocks = plan_without_blocks(network, calibration, blocks)
    network = apply_plan(network, without_blocks)
    prunable = dense = find_prunable(network, example)
    if source.teacher or without_blocks.skipped:
        dense = inspect_network((source.teacher or source).network().to(device), example)
        prunable = with_units_of(prunable, dense)
    if not prunable.groups:
        raise StageError(
            "the network has nothing more to prune: its groups are no longer those of the "
            "dense network; set a smaller schedule.steps"
        )
    for refusal in refusals(prunable):
        log.warning("  %s", refusal)
    return Subject(source, network, without_blocks, example, calibration, prunable, dense)
