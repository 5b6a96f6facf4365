"""Where removing a MAC, or the time of one, costs the least reconstruction error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from pipeline.data.arrays import IntArray
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.scoring.collect import Float64
from profiles.errors import StageError


class Reconstruction(Allocator):
    """Keep the k of each group that minimises weight * errors[k] ** power + mu * macs * k.

    For any mu that k is a corner of the lower convex hull of the group's curve. The segments
    between corners, of all groups, in the order of the error that a removed MAC adds, are the
    path that mu walks (Shoham & Gersho, 1988); the knob is the fraction of them, by MACs, that
    is gone. Ours, for curves from backward elimination. Where a group's times are known, they
    take the place of its MACs, and the widths worth keeping that of all widths.
    """

    needs_errors: ClassVar[bool] = True

    power: PositiveFloat = 1.0
    """Over 1 spares the groups that have lost much, under 1 spreads the loss less."""

    late_weight: PositiveFloat = 2.0
    """What an error in the last group weighs, in the network's order; one in the first weighs 1,
    and in between it grows geometrically. What goes wrong early can still be made good later.
    """

    def knob(self) -> float | None:
        return None

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        curves = zip(candidates, self.losses(candidates), strict=True)
        paths = [_path(one, curve) for one, curve in curves]
        owner = np.repeat(np.arange(len(paths)), [len(path.units) for path in paths])
        units = np.concatenate([path.units for path in paths])
        added = np.concatenate([path.added for path in paths])
        saved = np.concatenate([path.saved for path in paths])
        saves = saved > 0  # where nothing is saved, nothing is removed
        owner, units, added, saved = (part[saves] for part in (owner, units, added, saved))
        order = np.argsort(added / saved, kind="stable")
        reached = np.cumsum(saved[order])
        gone = order[reached <= knob * reached[-1:].sum()]
        removed = np.bincount(owner[gone], weights=units[gone], minlength=len(paths))
        return [
            1 - int(n) / candidate.group.size
            for n, candidate in zip(removed, candidates, strict=True)
        ]

    def losses(self, candidates: Sequence[Candidate]) -> list[Float64]:
        weights = np.geomspace(1, self.late_weight, len(candidates))
        return [w * self._curve(one) for w, one in zip(weights, candidates, strict=True)]

    def _curve(self, candidate: Candidate) -> Float64:
        """The group's error by units kept, [size + 1]."""
        group, errors = candidate.group, candidate.errors
        if len(errors) != group.size + 1:
            raise StageError(
                f"{group.name}: its channels are read by something else than convolutions and "
                "linear layers that run once, so the allocator 'reconstruction' knows no error; "
                "choose another allocator"
            )
        return np.asarray(np.maximum(errors, 0) ** self.power)


@dataclass(frozen=True)
class _Path:
    """What each segment of a group's hull removes and saves, and the error that it adds."""

    units: IntArray
    added: Float64
    saved: Float64


def _path(candidate: Candidate, curve: Float64) -> _Path:
    """The segments of the hull of the group's error over its MACs, or over its time."""
    stairs = candidate.staircase
    if stairs is None:
        corners = np.array(hull(curve))
        units, added = np.diff(corners), -np.diff(curve[corners])
        return _Path(units, added, units * candidate.macs)
    at = np.array(hull(curve[stairs.units], stairs.times))
    corners = stairs.units[at]
    return _Path(np.diff(corners), -np.diff(curve[corners]), np.diff(stairs.times[at]))


def hull(curve: Float64, at: Float64 | None = None) -> list[int]:
    """The corners of the lower convex hull of the points (at, curve), the first and last included.

    `at` is ascending; 0, 1, 2 ... when not given.
    """
    places: Sequence[float] = range(len(curve)) if at is None else at.tolist()
    values: list[float] = curve.tolist()
    corners: list[int] = []
    for k, value in enumerate(values):
        while len(corners) > 1:
            i, j = corners[-2:]
            before, after = places[j] - places[i], places[k] - places[j]
            if (values[j] - values[i]) * after < (value - values[j]) * before:
                break
            corners.pop()
        corners.append(k)
    return corners
