"""The folder on a board that measures: files under their SHA-256, one job at a time.

Needs Python 3.8 and no library.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from profiles.errors import DeviceError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOCK = "lock"
"""The file whose lock is the lease on the machine."""
LEASE_POLL_S = 0.1
"""Seconds between two tries for a lease that another process holds."""
UNUSED_FILE_S = 7 * 24 * 3600
"""Seconds that a file stays which no job asks for."""
PART = ".part"
"""The end of the name of a file that is still on its way."""
UNUSED_PART_S = 2 * 3600
"""The same of a file on its way: longer than any client waits for the lease on the machine."""
CHUNK = 1 << 20
"""Bytes that are read at a time."""
LONGEST_LINE = 2000
"""The most characters of an error message, or of who holds the lease."""


@contextmanager
def leased(folder: Path, wait_s: float) -> Iterator[None]:
    """Hold the lease on the machine. A lease dies with its process, so none is ever stale.

    Raises DeviceError where another holds it for `wait_s`, or where it was taken away meanwhile.
    """
    import fcntl  # absent on Windows

    lock = folder / LOCK
    end = time.monotonic() + wait_s
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    holder = os.read(file, LONGEST_LINE).decode("utf-8", "replace")
                    raise DeviceError(
                        f"the device is in use by {holder or 'another process'}; "
                        f"waited {wait_s:.0f} s"
                    ) from error
                time.sleep(LEASE_POLL_S)
                continue
            if not _is_at(file, lock):
                continue
            client = os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} for {client or 'this machine'}".encode())
            yield
            if not _is_at(file, lock):
                raise DeviceError(f"the lease was taken away meanwhile: {lock} was replaced")
            return
        finally:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def check_private(folder: Path) -> None:
    """Raise IntegrityError where others may write to the folder, DeviceError where it is absent."""
    try:
        found = folder.lstat()
    except FileNotFoundError as error:
        raise DeviceError(f"{folder} is not there; run again") from error
    writable_by_others = found.st_uid != os.geteuid() or found.st_mode & OTHERS_MAY_WRITE
    if writable_by_others or not stat.S_ISDIR(found.st_mode):
        raise IntegrityError(f"others may write to {folder}: remove it")


def check_files(folder: Path, files: Mapping[str, str | None], wrong: str) -> None:
    """Compare every file with the SHA-256 in its name; one just written gets its name now.

    `files` are names, and where a file has just been written, what it is called until now. Raises
    IntegrityError, with the words `wrong`, for a file that differs, and DeviceError for none.
    """
    for name, part in files.items():
        path = folder / (part or name)
        try:
            found = file_digest(path)
        except FileNotFoundError as error:
            raise DeviceError(f"{path} is not there any more; run again") from error
        if found != name.partition(".")[0]:
            if part:
                path.unlink()
                raise IntegrityError(f"{path} arrived damaged: look after the disk, run again")
            raise IntegrityError(f"{path}: {wrong}; remove it, and find out who")
        if part:
            publish(path, folder / name)
        os.utime(folder / name)


def sweep(folder: Path) -> None:
    """Delete what no job has asked for in days, and in hours what broken transfers left.

    Another client may delete or rename the same files at the same moment.
    """
    now = time.time()
    for path in folder.iterdir():
        kept_s = UNUSED_PART_S if path.name.endswith(PART) else UNUSED_FILE_S
        with suppress(FileNotFoundError):
            old = abs(now - path.lstat().st_mtime) > kept_s
            if old and path.name != LOCK and not path.is_dir():
                path.unlink()


@contextmanager
def deleted_unless_published(part: Path) -> Iterator[Path]:
    """A file to be written and published, or else deleted."""
    try:
        yield part
    finally:
        if part.exists():
            part.unlink()


def publish(part: Path, path: Path) -> None:
    """Write a file to the disk for good, and rename it."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, CHUNK), b""):
            found.update(chunk)
    return found.hexdigest()
