"""SHA-256 of files, folders and JSON values: what names every stored result."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from profiles.errors import reading_error

CODE_CACHE = "__pycache__"
"""The folder in which Python keeps what it made of source files: importing them changes it."""


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise reading_error(path, error) from error


def path_digest(path: Path) -> str:
    """The digest of a file, or of every file below a folder with its name."""
    return files_digest(path_files(path))


def files_digest(files: Mapping[str, Path]) -> str:
    """The digest of files with their names; of one named "" the digest of its bytes alone."""
    if list(files) == [""]:
        return file_digest(files[""])
    return value_digest({name: file_digest(files[name]) for name in sorted(files)})


def one_file(path: Path) -> dict[str, Path]:
    """A path that must be a file."""
    return {"": path}


def path_files(path: Path) -> dict[str, Path]:
    """Every file below a folder by its name in it; a file itself, or what is missing, as ""."""
    if not path.is_dir():
        return {"": path}
    return dict(_files_below(path, "", frozenset()))


def _files_below(folder: Path, start: str, above: frozenset[Path]) -> Iterator[tuple[str, Path]]:
    """Every file and its name, which begins with `start`; none goes in a circle.

    Through links to folders too, as loaders follow them.
    """
    above = above | {folder.resolve()}
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise reading_error(folder, error) from error
    for entry in entries:
        path, name = folder / entry.name, start + entry.name
        if entry.is_file():
            yield name, path
        elif entry.is_dir() and entry.name != CODE_CACHE and path.resolve() not in above:
            yield from _files_below(path, f"{name}/", above)


def value_digest(value: object) -> str:
    """The digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
