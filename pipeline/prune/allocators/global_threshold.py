"""One threshold for the units of all groups."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.prune.allocators import Allocator, Candidate
from pipeline.scoring.collect import Float64
from profiles.spec import Fraction


class GlobalThreshold(Allocator):
    """Remove the units with the lowest normalised scores, whichever group they are in.

    `zscore` (s - mean) / std, `mean` s / mean, `none` s itself (arXiv 2209.14624), `lamp`
    s^2 / sum of t^2 over the group's t >= s (arXiv 2010.07611, there of weights), in which the
    best unit of every group goes last. The knob is the fraction of all units removed.
    """

    normalise: Literal["zscore", "mean", "lamp", "none"] = "zscore"
    pruning_ratio: Fraction | None = None
    """The fraction of all units to remove, or what the budget needs."""

    def knob(self) -> float | None:
        return self.pruning_ratio

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        scores = [self._normalised(candidate.scores) for candidate in candidates]
        owner = np.repeat(np.arange(len(scores)), [len(part) for part in scores])
        order = np.argsort(np.concatenate(scores), kind="stable")
        removed = np.bincount(owner[order[: round(knob * len(order))]], minlength=len(scores))
        return [1 - int(gone) / len(part) for gone, part in zip(removed, scores, strict=True)]

    def _normalised(self, scores: Float64) -> Float64:
        if self.normalise == "zscore":
            spread = scores.std() if np.ptp(scores) else 1.0  # not what rounding leaves of it
            return np.asarray((scores - scores.mean()) / spread)
        if self.normalise == "mean":
            return scores / (abs(float(scores.mean())) or 1.0)
        if self.normalise == "lamp":
            order = np.argsort(-np.abs(scores), kind="stable")
            squares = np.empty_like(scores)
            squares[order] = np.cumsum(scores[order] ** 2)
            return scores**2 / np.where(squares > 0, squares, 1)
        return scores
