"""Batch-norm statistics of the pruned network instead of the dense one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.plan import BATCH_NORMS
from pipeline.recoveries import Recovery


class BnRecalibrate(Recovery):
    """Reset running mean and variance and average them anew over all batches.

    As in EagleEye (Li et al., ECCV 2020, arXiv 2007.02491). A network without batch norm is
    left as it is.
    """

    def recover(self, network: nn.Module, batches: Iterable[Tensor]) -> None:
        norms = [m for m in network.modules() if isinstance(m, BATCH_NORMS)]
        norms = [norm for norm in norms if norm.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        with torch.no_grad():
            for inputs in batches if norms else ():
                network(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
