"""Repair of a pruned network without training: one recovery a file."""

from abc import ABC, abstractmethod

from torch import nn

from pipeline.network.calibration import Calibration
from pipeline.network.plan import PruningPlan
from profiles.spec import Spec


class Recovery(Spec, ABC):
    """Changes weights or buffers of a pruned network so that it answers as the dense one."""

    @abstractmethod
    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        """Repair `network`, which is `apply_plan(dense, plan)` or went on from there, in place.

        Both are in eval mode. Returns what the report should say.
        """
