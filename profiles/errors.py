"""Every error a user can mend, each with its documented exit code.

SlimgateError
├── ConfigError       2  a recipe, a weights file, data or an argument is wrong
│   └── UnreadableError  2  a file is there, and the system does not let it be read now
├── MissingExtra      3  a library or tool this step needs is not installed
├── DeviceError       4  the device cannot be reached or does not answer
├── StageError        5  a stage could not produce its result
├── DiskError         5  a disk fails, or has no room for what lies there for a while
└── IntegrityError    7  a file is not what its manifest says, or may run code

Exit codes 0, 1 and 6 are verdicts (pass, fail, inconclusive), not errors.
Anything that is not a SlimgateError is a bug and shows its traceback.
"""

import errno
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SlimgateError(Exception):
    """A fault the user can mend; its text says what, where and what to do."""

    exit_code = 5


class ConfigError(SlimgateError):
    """What the user wrote or handed in is wrong."""

    exit_code = 2


class UnreadableError(ConfigError):
    """A file is there, and could not be read: what is in it is not known."""


NOT_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""What a system says of a path at which there is no file. All else may pass."""


def reading_error(path: Path, error: OSError) -> ConfigError:
    """The error to raise for a file that could not be read."""
    kind = ConfigError if error.errno in NOT_A_FILE else UnreadableError
    return kind(f"{path}: cannot be read ({error.strerror})")


CONVERTERS = ("coremltools", "litert-torch")
"""What its authors publish no wheel of for every platform; the markers in pyproject.toml say so."""


def no_wheel(library: str, python: tuple[int, int], system: str, machine: str) -> str:
    """That the library has no wheel for this platform; empty where it has one."""
    if library not in CONVERTERS:
        return ""
    if python >= (3, 14):
        return "there is no wheel of it for Python 3.14; use an older Python"
    if system == "darwin" or machine == "x86_64":
        return ""
    return f"there is no wheel of it for {system} on {machine}; build on x86-64 Linux or macOS"


class MissingExtra(SlimgateError):
    """Something that has to be installed first."""

    exit_code = 3

    def __init__(self, library: str, extra: str) -> None:
        advice = no_wheel(library, sys.version_info[:2], sys.platform, platform.machine())
        advice = advice or f"pip install 'slimgate[{extra}]'"
        super().__init__(f"{library} is not installed: {advice}")


class DeviceError(SlimgateError):
    """The device, or the process that measures on it, does not answer."""

    exit_code = 4


class StageError(SlimgateError):
    """A stage could not produce its result."""

    exit_code = 5


class DiskError(SlimgateError):
    """A disk fails, or has no room: nothing is wrong with what was being made."""

    exit_code = 5


class IntegrityError(SlimgateError):
    """A file differs from its manifest, or could run code when opened."""

    exit_code = 7


NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "failed to allocate memory"),
    *("bad_alloc", "alloc_failed", "out of memory", "out_of_memory"),
)
"""What libraries say when memory runs out, besides raising MemoryError."""
TAKES_TOO_MUCH = "takes more memory than there is: end other programs, or use a larger machine"


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out: libraries' errors share neither a class nor words."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY)


@contextmanager
def lack_of_memory_refused(doing: str) -> Iterator[None]:
    """Raise StageError where memory runs out while `doing` this: it says nothing of the network."""
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise StageError(f"{doing} {TAKES_TOO_MUCH}") from error
