"""The store: a stage runs once for one configuration and one source.

A result is written to a folder of its own, made durable, and renamed into place together with
a manifest; a killed run leaves nothing that looks finished. Safety never rests on a lock: the
lock only saves two runs from doing the same work, and tells a dead run's leftovers.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from pipeline.data.digest import value_digest
from pipeline.store.files import disk_faults
from pipeline.store.manifest import manifest_fault, publish, write_manifest
from pipeline.store.ownership import ENTRY, claim
from pipeline.store.runner import StageRecord
from pipeline.store.stage import In, Out, Stage
from profiles.errors import ConfigError, StageError

log = logging.getLogger("slimgate")

SCRATCH_DAYS = 30
"""The age at which the scratch folder of a stage that was never finished is removed."""


class Store:
    """A runner whose results are kept on disk below `root`.

    `records` has what became of each stage, in the order they ran.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.records: list[StageRecord] = []
        with disk_faults(root):
            claim(root)
            self._sweep()

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The stage's artifact, from the store when it is there whole, else made now."""
        key = stage.key(source)
        done = self._root / "done" / key
        if not any(record.key == key for record in self.records):
            start = time.perf_counter()
            cached = self._is_whole(done) or not self._make_once(name, stage, source, key)
            if not cached and not self._is_whole(done):
                raise StageError(
                    f"{done}: a damaged result stands there and cannot be removed; remove it by "
                    "hand, or name another store with --cache"
                )
            seconds = time.perf_counter() - start
            log.info("%s: %s, %.1f s", name, "cached" if cached else "done", seconds)
            self.records.append(StageRecord(name, key, cached, seconds))
        return stage.load(source, done, key)

    def has(self, key: str) -> bool:
        """Whether the result `key` is in the store, whole."""
        return self._is_whole(self._root / "done" / key)

    @contextlib.contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """Keep other runs on this store from doing `purpose` at the same time."""
        with FileLock(self._root / "locks" / value_digest(purpose)):
            yield

    def _make_once(self, name: str, stage: Stage[In, Out], source: In, key: str) -> bool:
        """Make the result, unless another run is at it: then wait. Whether this run made it."""
        lock = FileLock(self._root / "locks" / key)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                log.info("%s: another run is making this result; waiting for it", name)
                stack.enter_context(lock.acquire())
            if self._is_whole(self._root / "done" / key):
                return False
            self._make(name, stage, source, key)
            return True

    def _make(self, name: str, stage: Stage[In, Out], source: In, key: str) -> None:
        log.info("%s ...", name)
        start = time.perf_counter()
        scratch = self._root / "scratch" / key
        with disk_faults(self._root):
            work = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._root / "work"))
            try:
                stage.run(source, work, scratch)
                source.check_unchanged()
                write_manifest(work, time.perf_counter() - start)
                publish(work, self._root / "done" / key)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)

    def _is_whole(self, folder: Path) -> bool:
        """Whether the folder is there and every byte is as its manifest says."""
        if not folder.exists():
            return False
        try:
            fault = manifest_fault(folder)
        except (ConfigError, OSError) as error:  # of a bad sector, too
            fault = str(error)
        if fault:
            log.warning("a stored result is damaged and will be made again: %s", fault)
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)
        return not fault

    def _sweep(self) -> None:
        """Remove what dead runs left: a live one holds the lock of its key.

        Only what bears a name that a store gives; another run may sweep at the same moment.
        """
        for work in self._own("work"):
            key = work.name.partition(".")[0]
            with contextlib.suppress(Timeout), FileLock(self._root / "locks" / key, timeout=0):
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


def default_root() -> Path:
    """`$SLIMGATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("SLIMGATE_CACHE") or platformdirs.user_cache_path("slimgate"))
