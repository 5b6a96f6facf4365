"""Files put into a user's folder, and the record there by which they are known as ours."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.data.digest import file_digest
from pipeline.store.files import disk_faults
from profiles.errors import ConfigError, UnreadableError
from profiles.spec import Spec, read_spec

RECORD = ".slimgate-files.json"


class WrittenFiles(Spec):
    """What slimgate has put into a folder."""

    sha256: dict[str, tuple[str, ...]] = {}
    """The digest of each file as it was written, by its name; two while it is being replaced."""


def check_not_users(folder: Path, names: Collection[str]) -> None:
    """Raise ConfigError where one of these files is there and is not as slimgate wrote it."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: exists and is not a folder; choose another --out")
    written = _record(folder).sha256
    for path in (folder / name for name in names):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(f"{path}: exists and is not a file; choose another --out")
        if path.is_file() and file_digest(path) not in written.get(path.name, ()):
            raise ConfigError(
                f"{path}: exists, and slimgate did not write it or it was changed since; "
                "move it away, or choose another --out"
            )


def put_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy the files into `folder` under their names; on a full disk, none of them.

    Over older files only where slimgate wrote those. A file with the same content is left as it
    is, and stays a user's where it was one. Raises ConfigError otherwise, StageError where the
    disk is full.
    """
    files = {n: path for n, path in files.items() if not is_same(folder / n, path)}
    check_not_users(folder, files.keys())
    fresh = {name: folder / f".{name}.slimgate-new" for name in files}
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, path in files.items():
                shutil.copyfile(path, fresh[name])
            new = {name: (file_digest(path),) for name, path in fresh.items()}
            old = _record(folder).sha256
            both = {name: (*old.get(name, ()), *digest) for name, digest in new.items()}
            _write_record(folder, {**old, **both})  # a kill between leaves what is known as ours
            for name, path in fresh.items():
                path.replace(folder / name)
            _write_record(folder, {**old, **new})
        finally:
            for path in fresh.values():
                path.unlink(missing_ok=True)


def is_same(there: Path, ours: Path) -> bool:
    """Whether `there` is a file with the content of `ours`."""
    is_file = there.is_file() and not there.is_symlink()
    return is_file and file_digest(there) == file_digest(ours)


def _record(folder: Path) -> WrittenFiles:
    """What the folder's record says; nothing where there is none or it is damaged."""
    try:
        return read_spec(folder / RECORD, WrittenFiles)
    except UnreadableError:
        raise
    except ConfigError:
        return WrittenFiles()


def _write_record(folder: Path, sha256: Mapping[str, tuple[str, ...]]) -> None:
    fresh = folder / f"{RECORD}.new"
    fresh.write_text(WrittenFiles(sha256=dict(sha256)).model_dump_json(indent=1) + "\n")
    fresh.replace(folder / RECORD)
