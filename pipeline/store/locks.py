"""Which result another run is making or using. The locks of a process that dies are free at once.

Nothing that is stored is wrong where locks do nothing, as on some network file systems: they save
two runs from doing the same work, and what is in use from being cleared.
"""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("slimgate")


class Locks:
    """The lock files in `folder`: `KEY` while a result is made or checked, `KEY.RANDOM` while it
    is used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uses: list[FileLock] = []

    @contextlib.contextmanager
    def turn(self, name: str, key: str) -> Iterator[None]:
        """Be the only run at this result, which `name` is the stage of; wait while another is."""
        lock = FileLock(self._folder / key)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                log.info("%s: another run is at this result; waiting for it", name)
                stack.enter_context(lock.acquire())
            yield

    def use(self, key: str) -> None:
        """Mark the result as used, as long as this object lives. To be called in its turn."""
        lock = FileLock(self._folder / f"{key}.{secrets.token_hex(8)}")
        lock.acquire()
        self._uses.append(lock)

    @contextlib.contextmanager
    def unused(self, key: str) -> Iterator[bool]:
        """Keep every run from this result; False where one is at it or uses it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FileLock(self._folder / key).acquire(timeout=0))
            except Timeout:
                yield False
            else:
                yield self._drop_dead_uses(key)

    def sweep(self) -> None:
        """Take away the marks of dead runs."""
        for key in {path.stem for path in self._folder.iterdir() if path.suffix}:
            with self.unused(key):
                pass

    def _drop_dead_uses(self, key: str) -> bool:
        """Whether all of them were dead."""
        # Not glob, which leaves out what it may not read.
        for path in [one for one in self._folder.iterdir() if one.name.startswith(f"{key}.")]:
            try:
                with FileLock(path).acquire(timeout=0):
                    pass
            except Timeout:
                return False
            with contextlib.suppress(OSError):
                path.unlink()
        return True
