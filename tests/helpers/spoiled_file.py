"""A file that was damaged after it was written."""

from pathlib import Path


def spoil(path: Path, place: int | None) -> None:
    """Flip one bit at `place`, or, for None, cut the file in half."""
    raw = bytearray(path.read_bytes())
    if place is None:
        del raw[len(raw) // 2 :]
    else:
        raw[place] ^= 1
    path.write_bytes(raw)
