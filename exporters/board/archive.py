"""An engine of several files as one: an uncompressed zip with fixed times, read in memory.

Needs Python 3.8 and no library.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from profiles.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date that every file in an archive has: the earliest that a zip can hold."""
MAX_BYTES = 1 << 32
"""The largest sum of the files' sizes that is read."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """The files, in the order of their names; the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), files[name])
    return buffer.getvalue()


def unpack(engine: Path, names: Sequence[str]) -> list[bytes]:
    """The contents of the files `names`, which are all that an engine may hold.

    Raises DeviceError for anything else: nothing is written to a disk, and nothing is inflated.
    """
    try:
        with zipfile.ZipFile(engine) as archive:
            infos = archive.infolist()
            if sorted(info.filename for info in infos) != sorted(names):
                raise DeviceError("not an engine of this runtime")
            plain = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            if not plain or sum(info.file_size for info in infos) > MAX_BYTES:
                raise DeviceError("compressed or too large; build it again")
            return [archive.read(name) for name in names]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise DeviceError(f"{error}; build it again") from error
