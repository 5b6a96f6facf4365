"""A runner turns a stage and its source into the stage's artifact; one of them only says how."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.store.key_record import Parts
from pipeline.store.results import Found, Results
from pipeline.store.stage import In, Out, Stage


@dataclass(frozen=True)
class StageRecord:
    """What became of one stage in one run."""

    name: str
    """The stage's name in the flow, such as "prune 1"."""
    key: str
    """The digest of all that the result depends on."""
    cached: bool
    """Whether the result was in the store already."""
    seconds: float
    """The time from asking for the result to having it."""


class Runner(Protocol):
    """Turns a stage and its source into the stage's artifact."""

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out: ...


@dataclass(frozen=True)
class PlannedStage:
    """What would become of one stage."""

    name: str
    """The stage's name in the flow."""
    key: str
    """The digest of all that the result depends on."""
    found: Found
    """How the result stands in the store."""
    depends_on: Parts
    """The parts of the key."""


class DryRun:
    """A runner that runs nothing: `records` has what a run would do once, in its order.

    `refresh` names the stages whose results a run would make again.
    """

    def __init__(self, results: Results, refresh: Collection[str] = ()) -> None:
        self._results, self._refresh = results, refresh
        self.records: list[PlannedStage] = []

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The artifact as it would be; its files need not exist."""
        times = self._results.refreshed(stage.key(source)) + (name in self._refresh)
        key = stage.key(source, times)
        if not any((record.name, record.key) == (name, key) for record in self.records):
            found = self._results.examine(key)
            self.records.append(PlannedStage(name, key, found, stage.depends_on(source, times)))
        return stage.load(source, Path(), key)
