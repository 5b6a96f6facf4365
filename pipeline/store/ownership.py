"""The mark of a store: in a folder without it nothing is made, and nothing is ever removed."""

import contextlib
import re
from pathlib import Path

from profiles.errors import ConfigError

MARK = ".slimgate-store"
FOLDERS = ("done", "work", "scratch", "locks", "refreshed")
KEY = re.compile(r"[0-9a-f]{64}")
ENTRY = re.compile(rf"{KEY.pattern}(\.\w+)?")
"""A digest, and in some of FOLDERS an end: the names of everything that a store puts there."""


def claim(root: Path) -> None:
    """Make `root` a store, or find that it is one. Raises ConfigError as `check_place` does."""
    check_place(root)
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # another run began at the same moment
        (root / MARK).touch(exist_ok=False)
    for name in FOLDERS:
        (root / name).mkdir(exist_ok=True)


def check_place(root: Path) -> None:
    """Raise ConfigError where `root` is no store and cannot become one.

    That is where it holds anything that no store made, and where it or one of its folders is a
    link or a file: a link would have us sweep what it points to.
    """
    advice = "name a new or empty folder with --cache or SLIMGATE_CACHE"
    for folder in (root / name for name in FOLDERS):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConfigError(f"{folder}: is a link or a file, and no folder of a store; {advice}")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file; {advice}")
    if not (root / MARK).is_file():
        stranger = _stranger(root)
        if stranger:
            raise ConfigError(f"{root}: holds {stranger}, which no store has made; {advice}")


def _stranger(root: Path) -> str:
    """What in an unmarked folder is not of a store, which older versions did not mark."""
    if not root.exists():
        return ""
    for entry in sorted(root.iterdir()):
        if entry.name == MARK:  # another run, which began at the same moment, has set it
            return ""
        if entry.name not in FOLDERS:
            return entry.name
        others = (one.name for one in entry.iterdir() if not ENTRY.fullmatch(one.name))
        if name := next(others, ""):
            return f"{entry.name}/{name}"
    return ""
