"""The store: a stage runs once for one configuration and one source.

A result is written to a folder of its own, made durable, and renamed into place together with
a manifest; a killed run leaves nothing that looks finished. Safety never rests on a lock: the
lock only saves two runs from doing the same work, and tells a dead run's leftovers.
"""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs
from filelock import FileLock, Timeout
from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.digest import file_digest, value_digest
from pipeline.stage import In, Out, Stage
from profiles.errors import ConfigError, StageError
from profiles.spec import Spec, read_spec

log = logging.getLogger("slimgate")

MANIFEST = "MANIFEST.json"
SCRATCH_DAYS = 30
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileFacts(Spec):
    """Size and digest of one file."""

    bytes: NonNegativeInt
    sha256: str


class Manifest(Spec):
    """Every file of a finished folder. A folder without it, or unlike it, is not finished."""

    seconds: NonNegativeFloat
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class StageRecord:
    """What became of one stage in one run."""

    name: str
    key: str
    cached: bool
    seconds: float


class Runner(Protocol):
    """Turns a stage and its source into the stage's artifact."""

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out: ...


class Store:
    """Results on disk below `root`; `records` tells what this run did."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.records: list[StageRecord] = []
        with disk_faults(root):
            for folder in ("done", "work", "scratch", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            self._sweep()

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The stage's artifact, from the store when it is there whole, else made now."""
        key = stage.key(source)
        done = self._root / "done" / key
        if any(record.key == key for record in self.records):
            return stage.load(source, done, key)
        start = time.perf_counter()
        if self._is_whole(done):
            return self._finish(name, stage, source, key, True, start)
        lock = FileLock(self._root / "locks" / key)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                log.info("%s: another run is making this result; waiting for it", name)
                stack.enter_context(lock.acquire())
            if self._is_whole(done):
                return self._finish(name, stage, source, key, True, start)
            self._make(name, stage, source, key)
        return self._finish(name, stage, source, key, False, start)

    def has(self, key: str) -> bool:
        """Whether the result `key` is in the store, whole."""
        return self._is_whole(self._root / "done" / key)

    @contextlib.contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """Keep other runs on this store from doing `purpose` at the same time."""
        with FileLock(self._root / "locks" / value_digest(purpose)):
            yield

    def _make(self, name: str, stage: Stage[In, Out], source: In, key: str) -> None:
        log.info("%s ...", name)
        start = time.perf_counter()
        scratch = self._root / "scratch" / key
        with disk_faults(self._root):
            work = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._root / "work"))
            try:
                stage.run(source, work, scratch)
                write_manifest(work, time.perf_counter() - start)
                publish(work, self._root / "done" / key)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)

    def _finish(
        self, name: str, stage: Stage[In, Out], source: In, key: str, cached: bool, start: float
    ) -> Out:
        seconds = time.perf_counter() - start
        log.info("%s: %s, %.1f s", name, "cached" if cached else "done", seconds)
        self.records.append(StageRecord(name, key, cached, seconds))
        return stage.load(source, self._root / "done" / key, key)

    def _is_whole(self, folder: Path) -> bool:
        """Whether the folder is there and every byte is as its manifest says."""
        if not folder.exists():
            return False
        try:
            fault = manifest_fault(folder)
        except ConfigError as error:
            fault = str(error)
        if fault:
            log.warning("a stored result is damaged and will be made again: %s", fault)
            shutil.rmtree(folder, ignore_errors=True)
        return not fault

    def _sweep(self) -> None:
        """Remove what dead runs left: a live one holds the lock of its key."""
        for work in (self._root / "work").iterdir():
            key = work.name.partition(".")[0]
            with contextlib.suppress(Timeout), FileLock(self._root / "locks" / key, timeout=0):
                shutil.rmtree(work, ignore_errors=True)
        oldest = time.time() - SCRATCH_DAYS * 86400
        for scratch in (self._root / "scratch").iterdir():
            if scratch.stat().st_mtime < oldest or (self._root / "done" / scratch.name).exists():
                shutil.rmtree(scratch, ignore_errors=True)


class Plan:
    """A runner that runs nothing: `rows` tells what a run would do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows: list[StageRecord] = []

    def run(self, name: str, stage: Stage[In, Out], source: In) -> Out:
        """The artifact as it would be; its files need not exist."""
        key = stage.key(source)
        self.rows.append(StageRecord(name, key, self._store.has(key), 0.0))
        return stage.load(source, Path(), key)


def default_root() -> Path:
    """`$SLIMGATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("SLIMGATE_CACHE") or platformdirs.user_cache_path("slimgate"))


def write_manifest(folder: Path, seconds: float) -> None:
    """Make every file of `folder` durable and list them in its manifest."""
    facts = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _sync(path)
        facts[path.relative_to(folder).as_posix()] = FileFacts(
            bytes=path.stat().st_size, sha256=file_digest(path)
        )
    manifest = folder / MANIFEST
    manifest.write_text(Manifest(seconds=seconds, files=facts).model_dump_json(indent=1))
    _sync(manifest)


def manifest_fault(folder: Path) -> str:
    """What differs between `folder` and its manifest; empty when nothing does.

    Raises ConfigError when the manifest itself cannot be read.
    """
    listed = read_spec(folder / MANIFEST, Manifest).files
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    unlike = (found - {MANIFEST}) ^ set(listed)
    if unlike:
        name = min(unlike)
        return f"{folder / name} is {'missing' if name in listed else 'not in the manifest'}"
    for name, facts in listed.items():
        path = folder / name
        if path.is_symlink() or path.stat().st_size != facts.bytes:
            return f"{path} has not the size its manifest says"
        if file_digest(path) != facts.sha256:
            return f"{path} has not the content its manifest says"
    return ""


def publish(work: Path, done: Path) -> None:
    """Rename a finished folder into place; if another run was first, its result stands."""
    _sync(work)
    try:
        work.rename(done)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _sync(done.parent)


@contextlib.contextmanager
def disk_faults(where: Path) -> Iterator[None]:
    """Turn a full or failing disk into a StageError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StageError(f"{where}: the disk is full; free space and run again") from error
        raise StageError(f"{error.filename or where}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handles for folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Spec) -> None:
    """Write a Spec as JSON a person can read."""
    path.write_text(value.model_dump_json(indent=1) + "\n")
