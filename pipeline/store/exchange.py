"""Two folders change places in one step, where the system can do that."""

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""renameat2(2) on Linux; renamex_np(2) on macOS calls it RENAME_SWAP, with the same number."""
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What kernels and file systems answer that do not have it."""


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders of one file system; False where that cannot be had in one step.

    Raises OSError where it can be had, and fails.
    """
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform not in ("linux", "darwin"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, RENAME_EXCHANGE)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def take_place(new: Path, folder: Path, aside: Path) -> None:
    """`new` takes the place of `folder`, whose old content is at `new` or gone to `aside`.

    Without an exchange there is a moment at which `folder` is not there and `aside` is: an error
    or a signal then puts it back, and `restore` does after a kill.
    """
    if exchange(new, folder):
        return
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise


def restore(folder: Path, aside: Path) -> None:
    """Put back what a killed `take_place` has left aside, or remove it where the new one stands."""
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
