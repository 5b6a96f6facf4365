"""Calls into other people's libraries: one kind of error comes out, and nothing is printed.

Needs Python 3.8 and no library.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from profiles.errors import SlimgateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.errors import DeviceError, StageError


@contextmanager
def faults(kind: type[StageError] | type[DeviceError], what: str) -> Iterator[None]:
    """Whatever a library raises becomes `kind`; runtimes' errors share no class but Exception.

    What is an error of ours already, and of another kind, stays as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SlimgateError) and not isinstance(error, kind):
            raise
        raise kind(f"{what}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """What a converter says of its own steps, which no user can mend, concerns nobody."""
    words = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(words), redirect_stderr(words), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
