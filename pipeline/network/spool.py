"""Tensors put aside: in memory as long as there is room for them, and else in a file."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import IO, TYPE_CHECKING, Protocol
from weakref import WeakSet, finalize

import torch
from torch import Tensor

from profiles.errors import DiskError
from profiles.machine.facts import available_memory

if TYPE_CHECKING:  # slice itself takes its parameters from Python 3.14 on
    Part = slice[int | None, int | None, int | None]
    """Some of many samples."""
    Between = slice[int, int, None]
    """Those from one to before another."""
else:
    Part = Between = slice

SHARE = 0.5
"""The part of the free memory that is used where nobody says how much."""
ZEROS = bytes(2**20)
"""What a new file is filled with, so much at a time."""


class Samples(Protocol):
    """Samples [n, ...], read some at a time: a tensor, or what makes or reads them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: Part, /) -> Tensor: ...


class Memory:
    """Room for what is put aside. How much there is changes where things lie, and no result."""

    def __init__(self, most_bytes: float | None = None) -> None:
        free = available_memory()
        if most_bytes is None:
            most_bytes = float("inf") if free is None else free * SHARE
        self._most = most_bytes
        self._held = 0
        self._spools: WeakSet[Spool] = WeakSet()

    def spool(self) -> "Spool":
        """A place for tensors that are given up together."""
        spool = Spool(self)
        self._spools.add(spool)
        return spool

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be held."""
        return self._held + sum(spool.held for spool in self._spools) + size <= self._most

    def tensor(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A new tensor in single precision that stays; where it has no room, a mapped file.

        Raises DiskError where there is no room for that either.
        """
        size = prod(shape)
        if device.type != "cpu" or self.has_room(4 * size):
            self._held += 4 * size
            return torch.empty(shape, device=device)
        # The file has no name, and is gone with the tensor, from here.
        with _temporary_files(), tempfile.NamedTemporaryFile() as file:
            for start in range(0, 4 * size, len(ZEROS)):  # a disk that is full later is a signal
                file.write(ZEROS[: 4 * size - start])
            file.flush()
            return torch.from_file(file.name, shared=True, size=size).view(shape)


class Spool:
    """Holds tensors until nobody has one of them any more; its file has no name to leave behind.

    Raises DiskError where a file cannot take or give back what memory has no room for.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._file: IO[bytes] | None = None
        self.held = 0
        """Bytes in memory."""

    def keep(self, value: Tensor) -> "Kept":
        """Put `value` aside, on the CPU; it must not be changed any more."""
        value = value.detach().contiguous().cpu()
        if self._memory.has_room(value.nbytes):
            self.held += value.nbytes
            return Kept(self, tuple(value.shape), value.dtype, value, 0)
        return Kept(self, tuple(value.shape), value.dtype, None, self._append(value))

    def read_at(self, place: int, into: Tensor) -> None:
        """Fill a new, contiguous tensor with what lies at `place` in the file."""
        assert self._file is not None
        view = into.view(-1).view(torch.uint8).numpy().data
        with _temporary_files():
            self._file.seek(place)
            if self._file.readinto(view) != len(view):  # type: ignore[attr-defined]
                raise OSError("a temporary file was cut short")

    def _append(self, value: Tensor) -> int:
        with _temporary_files():
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed with the spool
                finalize(self, _closed, self._file)
            place = self._file.seek(0, 2)
            self._file.write(value.view(-1).view(torch.uint8).numpy().data)
            self._file.flush()
            return place


def _closed(file: IO[bytes]) -> None:
    """Nothing in it is needed any more, so what cannot be written is not missed."""
    with suppress(OSError):
        file.close()


@contextmanager
def _temporary_files() -> Iterator[None]:
    """Turn faults of their disk into a DiskError that names their folder."""
    try:
        yield
    except OSError as error:
        # tempfile finds no folder, and says so at each call, where none takes a file.
        folder = tempfile.tempdir or os.environ.get("TMPDIR", "the folder of temporary files")
        raise DiskError(
            f"{folder}: {error.strerror or error}; what memory has no room for lies there: free "
            "space, set TMPDIR to another folder, or raise memory_gib"
        ) from error


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor that was put aside."""

    spool: Spool
    shape: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None
    place: int

    def read(self) -> Tensor:
        """The tensor, on the CPU; not to be changed."""
        if self.value is not None:
            return self.value
        found = torch.empty(self.shape, dtype=self.dtype)
        if found.numel():
            self.spool.read_at(self.place, found)
        return found


class KeptSamples:
    """Samples [n, ...] put aside in parts, one after another, and read in any."""

    def __init__(self, spool: Spool, device: torch.device) -> None:
        self._spool, self._device = spool, device
        self._parts: list[Kept] = []

    def append(self, part: Tensor) -> None:
        """The next samples."""
        self._parts.append(self._spool.keep(part))

    def __len__(self) -> int:
        return sum(part.shape[0] for part in self._parts)

    def __getitem__(self, part: Part, /) -> Tensor:
        start, stop, _ = part.indices(len(self))
        found = list(self._pieces(start, stop))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _pieces(self, start: int, stop: int) -> Iterator[Tensor]:
        first = 0
        for kept in self._parts:
            end = first + kept.shape[0]
            if first < stop and start < end:
                piece = kept.read()[max(0, start - first) : stop - first]
                yield piece.to(self._device)
            first = end


class First:
    """The first of many samples."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: Part, /) -> Tensor:
        start, stop, _ = part.indices(self._count)
        return self._samples[start:stop]
