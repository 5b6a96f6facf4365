"""Calls into runtimes' and converters' libraries: one kind of error, and nothing printed.

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
def library_errors_as(kind: type[StageError] | type[DeviceError], what: str) -> Iterator[None]:
    """Turn whatever a library raises into `kind`; runtimes' errors share no class but Exception.

    The message is `what`, then the library's own words. A SlimgateError of another kind stays as
    it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SlimgateError) and not isinstance(error, kind):
            raise
        raise kind(f"{what}: {error}") from error


@contextmanager
def silenced() -> Iterator[None]:
    """Hide what a converter prints, logs and warns of its own steps: no user can mend it."""
    hidden = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(hidden), redirect_stderr(hidden), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
