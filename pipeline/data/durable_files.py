"""Files that a kill leaves whole, the old one or the new, and those whose damage is seen."""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("slimgate")

SEAL_BYTES = 65
"""A SHA-256 in hexadecimal digits, and the end of the line."""


def write_durably(raw: bytes, path: Path) -> None:
    """Write a file beside `path` first and rename it, so that a kill leaves the old one."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@dataclass(frozen=True)
class SealedFile:
    """A file whose first line is the SHA-256 of its folder's and its own name and of the rest.

    Where the folder bears the key of a result, a file of another one is as good as damaged.
    """

    path: Path

    def write(self, raw: bytes) -> None:
        """Put `raw` in place of what was there before, the folder made where it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._seal(raw) + raw, self.path)

    def read(self, then: str) -> bytes | None:
        """What was written; None where nothing was, or it is damaged.

        A damaged file is removed and told of, with what is done `then`. Raises OSError where it
        cannot be read at all.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        head, rest = raw[:SEAL_BYTES], raw[SEAL_BYTES:]
        if head == self._seal(rest):
            return rest
        log.warning("  %s is damaged; %s", self.path, then)
        self.path.unlink()
        return None

    def _seal(self, raw: bytes) -> bytes:
        names = f"{self.path.parent.name}/{self.path.name}\n".encode()
        return hashlib.sha256(names + raw).hexdigest().encode() + b"\n"
