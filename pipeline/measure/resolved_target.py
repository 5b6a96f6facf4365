"""A target with nothing left open."""

from dataclasses import dataclass

from profiles.budget import Budget
from profiles.device import DeviceProfile, Ssh


@dataclass(frozen=True)
class ResolvedTarget:
    """A target with nothing left open."""

    name: str
    device: DeviceProfile
    budget: Budget
    ssh: Ssh | None
