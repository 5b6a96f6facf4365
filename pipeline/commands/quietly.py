"""Calls that must leave the terminal alone, whatever libraries say at them."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def quietly(call: Callable[[], T]) -> tuple[T, str]:
    """What `call` gives, and what this process printed meanwhile, libraries in C++ as well.

    Nothing of it reaches stdout or stderr. It is for the whole process: no other thread may have
    anything to say.
    """
    _flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with tempfile.TemporaryFile() as printed:
        try:
            for number, _ in kept:
                os.dup2(printed.fileno(), number)
            found = call()
        finally:
            _flush()
            for number, stream in kept:
                os.dup2(stream, number)
                os.close(stream)
        printed.seek(0)
        return found, printed.read().decode(errors="replace")


def _flush() -> None:
    """Hand on what Python and the C library have not written yet."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
