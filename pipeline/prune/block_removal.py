"""Residual blocks removed whole: the plan that puts the identity in their place."""

from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.plan import PruningPlan
from pipeline.scoring.collect import BATCH_SAMPLES
from pipeline.scoring.residual_blocks import block_scores
from profiles.errors import ConfigError


def plan_without_blocks(network: nn.Module, calibration: Calibration, count: int) -> PruningPlan:
    """The plan that skips the `count` residual blocks that change their input least.

    Raises ConfigError when the identity can take the place of fewer.
    """
    if not count:
        return PruningPlan(layers={})
    scores = block_scores(network, calibration.array_batches(BATCH_SAMPLES))
    if count > len(scores):
        names = f" ({', '.join(scores)})" if scores else ""
        raise ConfigError(
            f"prune.blocks = {count}, but only {len(scores)} blocks can be removed{names}: a "
            "residual block needs one input and one output of its shape; set a smaller prune.blocks"
        )
    lowest = sorted(scores, key=lambda name: scores[name])[:count]
    return PruningPlan(layers={}, skipped=tuple(name for name in scores if name in lowest))
