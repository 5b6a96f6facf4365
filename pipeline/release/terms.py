"""The terms of a bundle: what each of its engines was built for, and what it may cost there."""

from typing import Annotated, Literal

from pydantic import Field

from profiles.budget import Budget
from profiles.device import DeviceProfile, Ssh
from profiles.spec import FileName, Spec


class Terms(Spec):
    """What an engine was built for, and what it may cost there."""

    device_name: str
    device: DeviceProfile
    ssh: Ssh | None
    """The board that measured, without the key to it; None for the machine that made the bundle."""
    budget: Budget
    engine: FileName
    """The engine that would ship, a file of the bundle."""
    dense: FileName
    """The dense network's engine, the baseline of every ratio."""
    measurement: FileName


class AllTerms(Spec):
    """The terms of every target of a bundle."""

    schema_version: Literal[2] = 2
    targets: Annotated[tuple[Terms, ...], Field(min_length=1)]
