"""Files that results are made from, and whether they are still what they were."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.digest import files_digest
from profiles.errors import ConfigError

Listing = Callable[[Path], Mapping[str, Path]]
"""The files that belong to a path, by their names."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a system notes of a file, without reading it."""

    bytes: int
    written_ns: int
    inode: int
    touched_ns: int
    """Of the last change to the file or to what is noted of it, such as its permissions."""

    def is_kept_in(self, later: "FileState | None") -> bool:
        """Whether size and time of writing are the same; some systems number inodes anew."""
        return later is not None and (self.bytes, self.written_ns) == (
            *(later.bytes, later.written_ns),
        )


@dataclass(frozen=True)
class InputFiles:
    """The files of one path, as they were noted before anything was read from them."""

    path: Path
    listing: Listing
    states: Mapping[Path, FileState | None]
    """None for a file that was not there."""

    @cached_property
    def digest(self) -> str:
        """The digest of the files. Raises ConfigError where one cannot be read."""
        return files_digest(self.listing(self.path))

    def check_unchanged(self) -> None:
        """Raise ConfigError naming a file that has changed since it was noted.

        Files are not read again, unless some mark of theirs has moved that writing moves too.
        """
        files = self.listing(self.path)
        now = _states(files.values())
        changed = sorted(now.keys() ^ self.states.keys()) or [
            path
            for path, state in self.states.items()
            if state is not None and not state.is_kept_in(now[path])
        ]
        if not changed and now != self.states and files_digest(files) != self.digest:
            changed = [path for path, state in self.states.items() if state != now[path]]
        if changed:
            raise ConfigError(
                f"{changed[0]}: was changed while slimgate was reading it, so nothing that was "
                "made from it is kept; leave it as it is while slimgate runs, and run again"
            )


def input_files(path: Path, listing: Listing) -> InputFiles:
    """The files of `path` as they are now."""
    return InputFiles(path, listing, _states(listing(path).values()))


def _states(files: Iterable[Path]) -> dict[Path, FileState | None]:
    return {file: _state(file) for file in files}


def _state(file: Path) -> FileState | None:
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)
