"""What a hostile file is, and how a good one is damaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Kind = Literal["onnx", "weights", "engine"]


@dataclass(frozen=True)
class Hostile:
    """A file for one of the openers."""

    name: str
    kind: Kind
    path: Path
    may_open: bool = False
    """True where it may be harmless: a flipped bit of a weight is another weight."""


def damaged(folder: Path, raw: bytes, kind: Kind, count: int) -> Iterator[Hostile]:
    """`raw` cut short at `count` // 4 places and with `count` bits or bytes changed."""
    generator = np.random.default_rng(0)
    suffix = ".safetensors" if kind == "weights" else ".onnx"
    cuts = np.unique(np.linspace(0, len(raw) - 1, count // 4).astype(int))
    # Short of its last message, protobuf may still be a whole one.
    variants = [(f"cut {cut}", raw[:cut], kind == "engine") for cut in cuts]
    for place in generator.integers(0, len(raw), count):
        spoiled = bytearray(raw)
        if place % 4:
            spoiled[place] ^= 1 << generator.integers(8)
        else:
            spoiled[place : place + 9] = generator.bytes(9)
        variants.append((f"flip {len(variants)} at {place}", bytes(spoiled), True))
    for name, content, may_open in variants:
        path = folder / f"{name.replace(' ', '-')}{suffix}"
        path.write_bytes(content)
        yield Hostile(f"{kind} {name}", kind, path, may_open)


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder
