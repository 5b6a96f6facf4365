"""Repair of a pruned network without training: one recovery a file."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from profiles.spec import Spec


class Recovery(Spec, ABC):
    """Changes weights or buffers of a pruned network so that it answers better."""

    @abstractmethod
    def recover(self, network: nn.Module, batches: Iterable[Tensor]) -> None:
        """Repair `network` in place from calibration inputs, each [n, ...]."""
