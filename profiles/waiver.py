"""Waivers: a limit raised for one engine on one device, signed off by name, until a day."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field

from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.spec import Spec, read_spec


class Waiver(Spec):
    """A limit raised for one engine on one device, and who answers for it."""

    check: str
    """The name of a limit in the budget."""
    device: str
    engine_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The digest of the one engine it is for: another build needs another waiver."""
    limit: float
    """The limit that holds instead of the budget's."""
    reason: Annotated[str, Field(min_length=10)]
    signed_off_by: Annotated[str, Field(min_length=1)]
    expires: date
    """The last day on which it holds."""

    def names(self, check: str, device: str, engine_sha256: str) -> bool:
        """Whether it is for this limit of this engine on this device."""
        return (self.check, self.device, self.engine_sha256) == (check, device, engine_sha256)


@dataclass(frozen=True)
class AcceptedWaivers:
    """The waivers that a judgement takes into account, and the day on which it is made."""

    waivers: tuple[Waiver, ...] = ()
    today: date = date.max
    """The day; a waiver that expired before it raises nothing."""


NO_WAIVERS = AcceptedWaivers()


class WaiverFile(Spec):
    """A waiver file: `[[waiver]]` tables."""

    waiver: tuple[Waiver, ...]


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """The waivers of a file. Raises ConfigError for one of a limit that there is not."""
    found = read_spec(path, WaiverFile).waiver
    for waiver in found:
        if waiver.check not in Budget.model_fields:
            known = ", ".join(Budget.model_fields)
            raise ConfigError(f"{path}: waiver.check: {waiver.check!r} is none of: {known}")
    return found
