"""Code of the user's: loaded from its path, and its errors told with the line they came from."""

import contextlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from profiles.errors import ConfigError, SlimgateError

PACKAGES_FOLDER = Path(__file__).parents[2]


NOT_USER_CODE = (
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(str(PACKAGES_FOLDER / name) + os.sep for name in ("pipeline", "exporters", "profiles")),
    "<",
)
"""How the paths of Python, libraries and slimgate begin: no user can mend an error there."""


def user_function(reference: str, base: Path) -> "Callable[[], object]":
    """The function `FILE.py:FUNCTION`, its module loaded from its path under a private name.

    The file's folder is appended to the search path, so that its own imports work and none of
    its neighbours can take the place of an installed package.
    """
    source, _, function = reference.rpartition(":")
    path = (base / source).resolve()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"_slimgate_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in annotations
    with user_code(str(path)):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{path}: has no function {function!r}")
    return cast("Callable[[], object]", found)


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ConfigError that names the line.

    SystemExit too: a script that leaves must not look like a run that passed.
    """
    try:
        yield
    except SlimgateError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{what} raised {type(error).__name__}: {error} ({_line_of(error)})"
        ) from error


def _line_of(error: BaseException) -> str:
    """The last line of the user's own files, or of any where none of them is in it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(NOT_USER_CODE)]
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno}"
