"""The finished results of a store: looked at here, and never changed."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipeline.store.files import disk_faults
from pipeline.store.key_record import KeyRecord, read_key_record
from pipeline.store.manifest import MANIFEST, manifest_fault
from pipeline.store.ownership import KEY, check_place
from profiles.errors import ConfigError, UnreadableError


@dataclass(frozen=True)
class Found:
    """How a result stands in the store."""

    state: Literal["whole", "absent", "damaged", "unreadable"]
    """Damaged: it was read, and differs from its manifest. Unreadable: nobody knows."""
    reason: str = ""
    """What is damaged or unreadable."""


@dataclass(frozen=True)
class StoredResult:
    """What is seen of a result without reading it."""

    key: str
    stage: str
    """The stage that made it, as the flow names it; empty where that is not recorded."""
    bytes: int
    made: datetime
    used: datetime
    """When a run has last asked for it."""


class Results:
    """The results below `root`. Raises ConfigError for a folder that is no store."""

    def __init__(self, root: Path) -> None:
        with disk_faults(root):
            check_place(root)
        self.root = root
        self._done, self._refreshed = root / "done", root / "refreshed"

    def folder(self, key: str) -> Path:
        """Where the result of a key is, or would be."""
        return self._done / key

    def refreshed(self, key: str) -> int:
        """How often a user had the result made again that is first stored under this key."""
        if not self._refreshed.exists():
            return 0
        names = [mark.name.partition(".") for mark in self._refreshed.iterdir()]
        return max((int(n) for first, _, n in names if first == key and n.isdecimal()), default=0)

    def all(self) -> list[StoredResult]:
        """Every result, in the order in which they were last used."""
        return _stored_in(self._done)

    def unfinished(self) -> list[StoredResult]:
        """What stages that were cut short have left to go on from."""
        return _stored_in(self.root / "scratch")

    def key_records(self) -> list[KeyRecord]:
        """What the keys of all results were made of, as far as it was recorded."""
        records = (read_key_record(self.folder(one.key)) for one in self.all())
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
        if fault and not folder.exists():  # another run has just removed it
            return Found("absent")
        return Found("damaged", fault) if fault else Found("whole")


def _stored_in(folder: Path) -> list[StoredResult]:
    """What is in a folder of the store. Raises StageError where it cannot be read."""
    found = []
    with disk_faults(folder):
        for entry in folder.iterdir() if folder.exists() else ():
            if KEY.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # another run may remove it
                    found.append(_stored(entry))
    return sorted(found, key=lambda one: one.used)


def _stored(folder: Path) -> StoredResult:
    record, manifest = read_key_record(folder), folder / MANIFEST
    used = folder.stat().st_mtime
    made = manifest.stat().st_mtime if manifest.exists() else used
    return StoredResult(
        key=folder.name,
        stage=record.stage if record else "",
        bytes=sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()),
        made=datetime.fromtimestamp(made, UTC),
        used=datetime.fromtimestamp(used, UTC),
    )
