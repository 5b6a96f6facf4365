"""Batch-norm statistics of the pruned network instead of the dense one."""

import torch
from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.layer_kinds import BatchNorm, kind_of
from pipeline.network.plan import PruningPlan
from pipeline.repair.recoveries import Recovery

BATCH_SAMPLES = 64


class BnRecalibrate(Recovery):
    """Reset running mean and variance and average them anew over all batches.

    As in EagleEye (Li et al., ECCV 2020, arXiv 2007.02491). A network without batch norm is
    left as it is.
    """

    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        kinds = [kind for m in network.modules() if isinstance(kind := kind_of(m), BatchNorm)]
        norms = [kind.layer for kind in kinds if kind.layer.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        with torch.no_grad():
            for inputs, _ in calibration.batches(BATCH_SAMPLES) if norms else ():
                network(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
        return () if norms else ("the network has no batch norm to recalibrate",)
