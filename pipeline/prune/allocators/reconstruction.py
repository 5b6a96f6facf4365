"""Where removing a MAC costs the least reconstruction error."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from pipeline.prune.allocators import Allocator, Candidate
from pipeline.scoring.collect import Float64
from profiles.errors import StageError


class Reconstruction(Allocator):
    """Keep the k of each group that minimises weight * errors[k] ** power + mu * macs * k.

    For any mu that k is a corner of the lower convex hull of the group's curve. The segments
    between corners, of all groups, in the order of the error that a removed MAC adds, are the
    path that mu walks (Shoham & Gersho, 1988); the knob is the fraction of them, by MACs, that
    is gone. Ours, for curves from backward elimination.
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
        weights = np.geomspace(1, self.late_weight, len(candidates))
        curves = [w * self._curve(one) for w, one in zip(weights, candidates, strict=True)]
        corners = [hull(curve) for curve in curves]
        owner = np.repeat(np.arange(len(curves)), [len(places) - 1 for places in corners])
        units = np.concatenate([np.diff(places) for places in corners])
        added = np.concatenate(
            [-np.diff(curve[places]) for curve, places in zip(curves, corners, strict=True)]
        )
        macs = units * np.array([candidate.macs for candidate in candidates])[owner]
        saves = macs > 0  # where nothing is saved, nothing is removed
        owner, units, added, macs = (part[saves] for part in (owner, units, added, macs))
        order = np.argsort(added / macs, kind="stable")
        reached = np.cumsum(macs[order])
        gone = order[reached <= knob * reached[-1:].sum()]
        removed = np.bincount(owner[gone], weights=units[gone], minlength=len(curves))
        return [
            1 - int(n) / candidate.group.size
            for n, candidate in zip(removed, candidates, strict=True)
        ]

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


def hull(curve: Float64) -> list[int]:
    """The corners of the lower convex hull of the points (k, curve[k]), from 0 to the last."""
    values: list[float] = curve.tolist()
    corners: list[int] = []
    for k, value in enumerate(values):
        while len(corners) > 1:
            i, j = corners[-2:]
            if (values[j] - values[i]) * (k - j) < (value - values[j]) * (j - i):
                break
            corners.pop()
        corners.append(k)
    return corners
