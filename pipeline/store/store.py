"""The store: a stage runs once for one configuration and one source.

A result is written to a folder of its own, made durable, and renamed into place together with
a manifest; a killed run leaves nothing that looks finished. That never rests on a lock.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from pipeline.data.digest import value_digest
from pipeline.store.artifacts import Checkpoint
from pipeline.store.files import disk_faults, write_json
from pipeline.store.key_record import KEY_RECORD, KeyRecord
from pipeline.store.locks import Locks
from pipeline.store.manifest import publish, sync, write_manifest
from pipeline.store.ownership import ENTRY, claim
from pipeline.store.results import Results
from pipeline.store.runner import StageRecord
from pipeline.store.stage import In, Out, Stage
from profiles.errors import StageError

log = logging.getLogger("slimgate")

SCRATCH_DAYS = 30
"""The age at which the scratch folder of a stage that was never finished is removed."""


class Store:
    """A runner whose results are kept on disk below `root`.

    `refresh` names stages whose results are made again, and with them those of the stages after
    them. `records` has what became of each stage, in the order they ran.
    """

    def __init__(self, root: Path, refresh: Collection[str] = ()) -> None:
        self._root = root
        self.refresh = frozenset(refresh)
        self.records: list[StageRecord] = []
        self._keys: dict[str, str] = {}
        with disk_faults(root):
            claim(root)
            self.results = Results(root)
            self._locks = Locks(root / "locks")
            self._sweep()

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The stage's artifact, from the store when it is there whole, else made now.

        Raises StageError where a result is there and cannot be read, and leaves it there.
        """
        first = stage.key(source)
        if first not in self._keys:
            with disk_faults(self._root):
                self._keys[first] = self._provide(name, stage, source)
        key = self._keys[first]
        return stage.load(source, self.results.folder(key), key)

    def remove(self, key: str) -> bool:
        """Remove a result, and what was begun of it; False where a run is at it or uses it."""
        with disk_faults(self._root), self._locks.unused(key) as unused:
            if unused:
                # Out of sight in one step: a kill leaves no half of it that looks like a result.
                for folder in (self.results.folder(key), self._root / "scratch" / key):
                    aside = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._root / "work"))
                    if folder.exists():
                        folder.rename(aside / "removed")
                    shutil.rmtree(aside, ignore_errors=True)
        return unused

    @contextlib.contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """Keep other runs on this store from doing `purpose` at the same time."""
        with FileLock(self._root / "locks" / value_digest(purpose)):
            yield

    def _provide(self, name: str, stage: Stage[In, Out], source: In) -> str:
        """Find the result or make it, and record that; its key.

        A result that is made again has a key of its own, and so have all that come of it: none of
        them can be taken for one of before, at whatever moment a run is killed.
        """
        first, start = stage.key(source), time.perf_counter()
        times = self.results.refreshed(first) + (name in self.refresh)
        key = stage.key(source, times)
        with self._locks.turn(name, key):
            self._locks.use(key)
            cached = self._is_whole(key)
            if cached:
                _note_use(self.results.folder(key))
            else:
                self._make(stage, source, key, _key_record(name, stage, source, times))
        if name in self.refresh:
            mark = self._root / "refreshed" / f"{first}.{times}"
            mark.touch()
            sync(mark.parent)
        seconds = time.perf_counter() - start
        log.info("%s: %s, %.1f s", name, "cached" if cached else "done", seconds)
        self.records.append(StageRecord(name, key, cached, seconds))
        return key

    def _make(self, stage: Stage[In, Out], source: In, key: str, record: KeyRecord) -> None:
        log.info("%s ...", record.stage)
        start = time.perf_counter()
        scratch, done = self._root / "scratch" / key, self.results.folder(key)
        work = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._root / "work"))
        try:
            stage.run(source, work, scratch)
            source.check_unchanged()
            write_json(work / KEY_RECORD, record)
            write_manifest(work, time.perf_counter() - start)
            publish(work, done)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if not self._is_whole(key):
            raise StageError(
                f"{done}: a damaged result stands there and cannot be removed; remove it by "
                "hand, or name another store with --cache"
            )

    def _is_whole(self, key: str) -> bool:
        """Whether the result is there and every byte as its manifest says; damaged, it is removed.

        Raises StageError where that cannot be known.
        """
        found, folder = self.results.examine(key), self.results.folder(key)
        if found.state == "unreadable":
            raise StageError(
                f"{found.reason}; the stored result is left as it is: run again once it can be "
                f"read, or remove {folder} to have it made again"
            )
        if found.state == "damaged":
            log.warning("a stored result is damaged and will be made again: %s", found.reason)
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)
        return found.state == "whole"

    def _sweep(self) -> None:
        """Remove what dead runs left: a live one holds the lock of its key.

        Only what bears a name that a store gives; another run may sweep at the same moment.
        """
        self._locks.sweep()
        for work in self._own("work"):
            with self._locks.unused(work.name.partition(".")[0]) as unused:
                if unused:
                    shutil.rmtree(work, ignore_errors=True)
        oldest = time.time() - SCRATCH_DAYS * 86400
        for scratch in self._own("scratch"):
            with contextlib.suppress(FileNotFoundError):
                is_done = (self._root / "done" / scratch.name).exists()
                if is_done or scratch.stat().st_mtime < oldest:
                    shutil.rmtree(scratch, ignore_errors=True)

    def _own(self, folder: str) -> list[Path]:
        """What the store itself has put into one of its folders."""
        entries = (self._root / folder).iterdir()
        return [one for one in entries if ENTRY.fullmatch(one.name) and not one.is_symlink()]


def _key_record(name: str, stage: Stage[In, Out], source: In, refreshed: int) -> KeyRecord:
    origin = source.origin if isinstance(source, Checkpoint) else None
    task = origin.depends_on() if origin else None
    return KeyRecord(stage=name, depends_on=stage.depends_on(source, refreshed), task=task)


def _note_use(folder: Path) -> None:
    """Give a result's folder the time of its last use; nothing depends on it."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def default_root() -> Path:
    """`$SLIMGATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("SLIMGATE_CACHE") or platformdirs.user_cache_path("slimgate"))
