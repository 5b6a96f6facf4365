"""SHA-256 of files, folders and JSON values: what names every stored result."""

import hashlib
import json
from pathlib import Path

from profiles.errors import ConfigError


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def path_digest(path: Path) -> str:
    """The digest of a file, or of every file below a folder with its name."""
    if not path.is_dir():
        return file_digest(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return value_digest({p.relative_to(path).as_posix(): file_digest(p) for p in files})


def value_digest(value: object) -> str:
    """The digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
