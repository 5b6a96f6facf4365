"""A finished folder: durable, listed in a manifest, renamed into place."""

import errno
import os
import stat
from pathlib import Path

from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.data.digest import file_digest
from profiles.errors import reading_error
from profiles.spec import Spec, read_spec

MANIFEST = "MANIFEST.json"


class FileFacts(Spec):
    """Size and digest of one file."""

    bytes: NonNegativeInt
    sha256: str


class Manifest(Spec):
    """Every file of a finished folder. A folder without it, or that differs, is not finished."""

    seconds: NonNegativeFloat
    """The time it took to make the folder, s."""
    files: dict[str, FileFacts]
    """Size and digest of every file, by its path in the folder."""


def write_manifest(folder: Path, seconds: float) -> None:
    """Make every file of `folder` durable and list them in its manifest."""
    facts = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        facts[path.relative_to(folder).as_posix()] = FileFacts(
            bytes=path.stat().st_size, sha256=file_digest(path)
        )
    manifest = folder / MANIFEST
    manifest.write_text(Manifest(seconds=seconds, files=facts).model_dump_json(indent=1))
    sync(manifest)


def manifest_fault(folder: Path) -> str:
    """What differs between `folder` and its manifest; empty when nothing does.

    Raises ConfigError when the manifest itself is none, and UnreadableError when something in the
    folder is there and could not be read.
    """
    listed = read_spec(folder / MANIFEST, Manifest).files
    try:
        differing = (_files_below(folder) - {MANIFEST}) ^ set(listed)
        if differing:
            name = min(differing)
            return f"{folder / name} is {'missing' if name in listed else 'not in the manifest'}"
        for name, facts in listed.items():
            path = folder / name
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                return f"{path} is a link, a pipe or a device, and no file"
            if found.st_size != facts.bytes:
                return f"{path} does not have the size in its manifest"
            if file_digest(path) != facts.sha256:
                return f"{path} does not have the content in its manifest"
    except OSError as error:
        raise reading_error(Path(error.filename or folder), error) from error
    return ""


def _files_below(folder: Path) -> set[str]:
    """The names in `folder` of all that is no folder, links to folders among them.

    Raises OSError where one cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=stop)
    return {
        (Path(place) / name).relative_to(folder).as_posix()
        for place, folders, names in walk
        for name in (*names, *(one for one in folders if Path(place, one).is_symlink()))
    }


def publish(work: Path, done: Path) -> None:
    """Rename a finished folder into place; if another run was first, its result stands."""
    sync(work)
    try:
        work.rename(done)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(done.parent)


def sync(path: Path) -> None:
    """Have what was written to a file, or put into a folder, outlast a power cut."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handles for folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
