"""A runner turns a stage and its source into the stage's artifact; one of them only says how."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.store.stage import In, Out, Stage


@dataclass(frozen=True)
class StageRecord:
    """What became of one stage in one run, or what would become of it."""

    name: str
    """The stage's name in the flow, such as "prune 1"."""
    key: str
    """The digest of all that the result depends on."""
    cached: bool
    """Whether the result was in the store already."""
    seconds: float
    """The time from asking for the result to having it; 0 where nothing ran."""


class Runner(Protocol):
    """Turns a stage and its source into the stage's artifact."""

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out: ...


class DryRun:
    """A runner that runs nothing: `records` has what a run would do, in its order.

    `is_stored` says whether the result of a key is in the store.
    """

    def __init__(self, is_stored: Callable[[str], bool]) -> None:
        self._is_stored = is_stored
        self.records: list[StageRecord] = []

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The artifact as it would be; its files need not exist."""
        key = stage.key(source)
        self.records.append(StageRecord(name, key, self._is_stored(key), 0.0))
        return stage.load(source, Path(), key)
