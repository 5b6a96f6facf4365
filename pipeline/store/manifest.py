"""A finished folder: durable, listed in a manifest, renamed into place."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.data.digest import file_digest
from profiles.errors import StageError
from profiles.spec import Spec, read_spec

MANIFEST = "MANIFEST.json"


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileFacts(Spec):
    """Size and digest of one file."""

    bytes: NonNegativeInt
    sha256: str


class Manifest(Spec):
    """Every file of a finished folder. A folder without it, or unlike it, is not finished."""

    seconds: NonNegativeFloat
    files: dict[str, FileFacts]


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
