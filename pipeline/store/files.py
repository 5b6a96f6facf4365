"""Files written for people to read, and disks that fail."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from profiles.errors import StageError
from profiles.spec import Spec

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_json(path: Path, value: Spec) -> None:
    """Write a Spec as JSON a person can read."""
    path.write_text(value.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def disk_faults(where: Path) -> Iterator[None]:
    """Turn a full or failing disk into a StageError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StageError(f"{where}: the disk is full; free space and run again") from error
        raise StageError(f"{error.filename or where}: {error.strerror or error}") from error
