"""The finished results of a store: looked at here, and never changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.store.key_record import KeyRecord, read_key_record
from pipeline.store.manifest import manifest_fault
from pipeline.store.ownership import ENTRY, check_place
from profiles.errors import ConfigError, UnreadableError


@dataclass(frozen=True)
class Found:
    """How a result stands in the store."""

    state: Literal["whole", "absent", "damaged", "unreadable"]
    """Damaged: it was read, and differs from its manifest. Unreadable: nobody knows."""
    reason: str = ""
    """What is damaged or unreadable."""


class Results:
    """The results below `root`. Raises ConfigError for a folder that is no store."""

    def __init__(self, root: Path) -> None:
        check_place(root)
        self._done, self._refreshed = root / "done", root / "refreshed"

    def folder(self, key: str) -> Path:
        """Where the result of a key is, or would be."""
        return self._done / key

    def refreshed(self, key: str) -> int:
        """How often a user had the result made again that is first stored under this key."""
        numbers = (mark.suffix[1:] for mark in self._refreshed.glob(f"{key}.*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def keys(self) -> list[str]:
        """The keys of all results, sorted."""
        if not self._done.exists():
            return []
        return sorted(one.name for one in self._done.iterdir() if ENTRY.fullmatch(one.name))

    def key_records(self) -> list[KeyRecord]:
        """What the keys of all results were made of, as far as it was recorded."""
        records = (read_key_record(self.folder(key)) for key in self.keys())
        return [record for record in records if record is not None]

    def examine(self, key: str) -> Found:
        """How the result of a key stands; every byte of it is read."""
        folder = self.folder(key)
        try:
            folder.stat()
            fault = manifest_fault(folder)
        except FileNotFoundError:
            return Found("absent")
        except UnreadableError as error:
            return Found("unreadable", str(error))
        except OSError as error:
            return Found("unreadable", f"{error.filename}: cannot be read ({error.strerror})")
        except ConfigError as error:
            fault = str(error)
        return Found("damaged", fault) if fault else Found("whole")
