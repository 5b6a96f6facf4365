"""A stage: its fields are its configuration, its `run` makes one artifact of another."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import JsonValue

from pipeline.data.digest import value_digest
from pipeline.store.artifacts import Artifact
from profiles.machine.facts import versions
from profiles.spec import Spec

In = TypeVar("In", bound=Artifact)
Out = TypeVar("Out", bound=Artifact, covariant=True)


class Stage(Spec, ABC, Generic[In, Out]):
    """Keeps no state; cached and fresh results come through the same `load`."""

    VERSION: ClassVar[int] = 1
    """Raise it when the same fields give another result."""
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    """The libraries whose versions a result depends on."""

    @abstractmethod
    def run(self, source: In, out: Path, scratch: Path) -> None:
        """Write the result into the empty folder `out`.

        `scratch`, a folder the stage makes when it needs it, outlives a killed run: what is left
        there may shorten the next one.
        """

    @abstractmethod
    def load(self, source: In, out: Path, key: str) -> Out:
        """The artifact in `out`, without reading it yet."""

    def environment(self) -> dict[str, str]:
        """What the result depends on besides fields and source."""
        return versions(self.LIBRARIES)

    def depends_on(self, source: In, refreshed: int = 0) -> dict[str, JsonValue]:
        """The parts of the key: all that the result depends on.

        `refreshed` counts how often a user had the result made again: each time is another result.
        """
        return {
            "stage": type(self).__name__,
            "version": self.VERSION,
            "fields": self.model_dump(mode="json"),
            "source": source.key,
            "environment": dict(self.environment()),
            **({"refreshed": refreshed} if refreshed else {}),
        }

    def key(self, source: In, refreshed: int = 0) -> str:
        """The digest of all that the result depends on; known before it is made."""
        return value_digest(self.depends_on(source, refreshed))
