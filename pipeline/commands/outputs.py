"""The files that a command leaves behind: all of them, or none."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import typer

from profiles.errors import ConfigError


def check_out_folder(out: Path) -> None:
    """Refuse an --out that can never be a folder, before the work. Raises ConfigError."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: exists and is not a folder; choose another --out")


def print_copies(files: Mapping[str, Path], out: Path) -> None:
    """Copy the files to `out` under their names, and print where they are."""
    copy_files(files, out)
    for name in files:
        typer.echo(str(out / name))


def copy_files(files: Mapping[str, Path], out: Path) -> None:
    """Copy the files to `out` under their names. Raises StageError where the disk is full."""
    from pipeline.store.files import disk_faults

    fresh = {name: out / f".{name}.new" for name in files}
    with disk_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            for name, path in files.items():
                shutil.copyfile(path, fresh[name])
            for name, path in fresh.items():
                path.replace(out / name)
        finally:
            for path in fresh.values():
                path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises ConfigError naming it where that is not possible."""
    try:
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
