"""The files that a command leaves behind, over none that slimgate did not write."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.commands.terminal import echo
from profiles.errors import ConfigError


def print_copies(files: Mapping[str, Path], out: Path) -> None:
    """Copy the files to `out` under their names, and print where they are."""
    from pipeline.store.written_files import put_files

    put_files(files, out)
    for name in files:
        echo(str(out / name))


def write_report(path: Path, text: str, ours: str) -> None:
    """Write a report, over an older one, which has `ours` in it, or over an empty file.

    Raises ConfigError naming a file that is anything else, and where writing is not possible.
    """
    try:
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if old and ours not in old:
            raise ConfigError(f"{path}: exists and is no report of slimgate; choose another file")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror})") from error


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet. Raises ConfigError naming it where that fails."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror})") from error
