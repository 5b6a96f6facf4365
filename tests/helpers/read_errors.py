"""Errors of reading that pass."""

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_more_files_to_open() -> Iterator[None]:
    """For a while, opening any file fails with EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # every number below it is in use
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
