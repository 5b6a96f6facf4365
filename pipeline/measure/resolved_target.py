"""A target with nothing left open."""

from dataclasses import dataclass

from exporters.exporter import exporter_class
from profiles.budget import Budget
from profiles.device import DeviceProfile, Ssh
from profiles.limits import TIMES


@dataclass(frozen=True)
class ResolvedTarget:
    """A target with nothing left open."""

    name: str
    device: DeviceProfile
    budget: Budget
    ssh: Ssh | None

    def times_layers(self) -> bool:
        """Whether times of layers alone foretell those of networks on its runtime."""
        return self.device.precision in exporter_class(self.device.engine).TIMES_LAYERS

    def times(self) -> frozenset[str]:
        """The names of the limits of its budget that are on times."""
        return TIMES & set(self.budget.limits())
