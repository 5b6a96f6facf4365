"""Groups as allocators know them, made by hand, and how many units one of them keeps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.network.groups import Group, Member
from pipeline.prune.allocators import Allocator, Candidate


def candidate(
    scores: Sequence[float],
    *,
    name: str = "0",
    width: int = 1,
    macs: float = 1.0,
    errors: Sequence[float] = (),
    shape: tuple[int, int, int] = (4, 4, 9),
) -> Candidate:
    size = len(scores)
    channels = np.arange(size * width)
    group = Group(name, size, size * width, (Member(name, "out", channels, channels // width),))
    return Candidate(
        group=group,
        scores=np.array(scores, dtype=np.float64),
        macs=macs,
        parameters=macs,
        errors=np.array(errors, dtype=np.float64),
        shape=shape,
        weights=np.ones(1, np.float32),
    )


def weighted(candidate: Candidate, weights: Sequence[float]) -> Candidate:
    """The same with these absolute weights of its producers."""
    return replace(candidate, weights=np.sort(np.array(weights, dtype=np.float32)))


def kept(allocator: Allocator, groups: Sequence[Candidate], knob: float) -> list[int]:
    shares = allocator.keep(groups, knob)
    return [round(share * g.group.size) for share, g in zip(shares, groups, strict=True)]
