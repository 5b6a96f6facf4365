"""What is noted of trials, so that a killed choice by trial goes on where it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from pipeline.data.durable_files import SealedFile
from pipeline.store.reports import Trial
from profiles.spec import Spec


def _nowhere(_: str, __: Trial) -> None:
    """For a choice that nobody goes on with."""


@dataclass(frozen=True)
class TrialNotes:
    """The trials that an earlier run has finished, and where those of this one are noted."""

    finished: Mapping[str, Trial] = field(default_factory=dict)
    """By their names within one choice."""
    note: Callable[[str, Trial], None] = _nowhere
    """Takes the name of a trial and what came of it."""


class _Noted(Spec):
    """What lies in the file."""

    trials: dict[str, Trial]


@dataclass(frozen=True)
class TrialsFile:
    """The file in which a stage notes its trials, sealed."""

    path: Path
    check_inputs: Callable[[], None]
    """Raises where what is tried on is no longer what it was: a trial of it is not noted."""

    def notes(self) -> TrialNotes:
        """What has been noted so far; this file takes the rest.

        A damaged file is removed. Raises OSError where it cannot be read at all.
        """
        return TrialNotes(self._read(), self._note)

    def _note(self, name: str, trial: Trial) -> None:
        self.check_inputs()
        noted = _Noted(trials={**self._read(), name: trial})
        SealedFile(self.path).write(noted.model_dump_json().encode())

    def _read(self) -> dict[str, Trial]:
        raw = SealedFile(self.path).read("all is tried again")
        try:
            return {} if raw is None else _Noted.model_validate_json(raw).trials
        except ValidationError:  # noted by another version of slimgate
            return {}
