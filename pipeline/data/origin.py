"""What a task comes from: all that the first key of a run depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from pipeline.data.digest import value_digest
from pipeline.data.input_files import InputFiles


@dataclass(frozen=True)
class TaskOrigin:
    """Fields, files and versions, noted before the task was loaded."""

    fields: Mapping[str, JsonValue]
    """What the recipe says, as JSON; not the places of files whose content counts."""
    files: Mapping[str, InputFiles]
    """By what they are to the task: "weights", "data" ..."""
    environment: Mapping[str, str]
    """The versions of the libraries that build the network."""

    def depends_on(self) -> dict[str, JsonValue]:
        """The parts of the key, as JSON. Raises ConfigError where a file cannot be read."""
        return {
            "fields": dict(self.fields),
            "files": {name: files.digest for name, files in self.files.items()},
            "environment": dict(self.environment),
        }

    @cached_property
    def key(self) -> str:
        """The digest of all parts."""
        return value_digest(self.depends_on())

    def check_unchanged(self) -> None:
        """Raise ConfigError naming a file that has changed since it was noted."""
        for files in self.files.values():
            files.check_unchanged()
