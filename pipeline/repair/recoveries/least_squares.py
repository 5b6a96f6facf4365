"""Every layer re-solved, in turn, so that the pruned network answers as the dense one does."""

from pydantic import NonNegativeInt, PositiveInt
from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.plan import PruningPlan
from pipeline.repair.dense_targets import dense_targets
from pipeline.repair.recoveries import Recovery
from pipeline.repair.resolve_layers import resolve_layers


class LeastSquares(Recovery):
    """Ridge regression of each layer to what the dense network has there, drift corrected.

    Consumers of coupled groups, layers in groups, depthwise and linear ones alike; see
    `pipeline.repair.resolve_layers` and `pipeline.repair.ridge`. A layer is changed only where
    that is better on samples that were not fitted.
    """

    rows: PositiveInt = 64_000
    """Positions of each layer's output that are compared."""
    steps: NonNegativeInt = 160
    """Steps of `pipeline.repair.refine_blocks`, at most, for each block that ends in a sum."""

    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        mixed = calibration.with_mixtures()
        targets = dense_targets(dense, mixed, mixed.fitted, self.rows, calibration.memory)
        return resolve_layers(network, plan, targets, self.steps)
