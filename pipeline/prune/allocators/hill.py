"""As many units as the scores say there effectively are."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import PositiveFloat

from pipeline.network.costs import Counts
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.scoring.collect import Float64

ROUNDING = 1e-9
"""H of N equal scores is N, which floating point may miss from below."""
FLAT = 0.1
"""Coefficient of variation under which N / (1 + CV^2) says little: H keeps 99 % or more."""


class Hill(Allocator):
    """Keep floor(beta * H) units of N, at least 1: H = (sum w^a)^(1 / (1 - a)), w = s / sum s.

    H is the Hill number of order a. Order 2 is the effective number of parameters, 1 / sum w^2
    (EMP, arXiv 2509.25606), which equals the PQ index's sparsity at p = 1, q = 2; its SAP has
    order 0.5 (arXiv 2302.05601); order 1 is exp(entropy). A budget moves beta: at knob t it is
    beta * (1 - t) / t, the field's own at 0.5.
    """

    order: PositiveFloat = 2.0
    scope: Literal["group", "global"] = "group"
    """`global` counts the units of all groups as one, and keeps those with the highest scores."""
    beta: PositiveFloat = 1.0
    transform: Literal["abs", "shift_min", "square"] = "abs"
    """What makes the scores weights: abs(s), s - min(s), or s^2."""

    def knob(self) -> float | None:
        return 0.5

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        beta = self.beta * (1 - knob) / knob if knob > 0 else math.inf
        if self.scope == "group":
            weights = [self._weights(candidate.scores) for candidate in candidates]
            return [_kept(w, self.order, beta) / len(w) for w in weights]
        scores = [candidate.scores for candidate in candidates]
        weights_of_all = self._weights(np.concatenate(scores))
        owner = np.repeat(np.arange(len(scores)), [len(part) for part in scores])
        best = np.argsort(-weights_of_all, kind="stable")
        chosen = owner[best[: _kept(weights_of_all, self.order, beta)]]
        kept = np.bincount(chosen, minlength=len(scores))
        return [int(n) / len(part) for n, part in zip(kept, scores, strict=True)]

    def remarks(self, candidates: Sequence[Candidate], counts: Counts) -> tuple[str, ...]:
        lines = []
        for candidate in candidates:
            name = candidate.group.name
            weights = self._weights(candidate.scores)
            variation = float(weights.std() / weights.mean()) if weights.any() else 0.0
            if variation < FLAT:
                lines.append(
                    f"warning: {name}: the scores are flat (CV {variation:.3f}): their Hill "
                    "number prunes next to nothing; try transform = 'shift_min' or 'square'"
                )
            # The bounds are on the largest weights; by abs and square those are the largest
            # scores only where none is negative.
            ordered = self.transform == "shift_min" or candidate.scores.min() >= 0
            least = guaranteed_mass(len(weights), hill_number(weights, 2), counts[name])
            if ordered and least is not None:
                lines.append(f"{name}: keeps at least {least:.3f} of the sum of its scores")
        return tuple(lines)

    def _weights(self, scores: Float64) -> Float64:
        if self.transform == "shift_min":
            return np.asarray(scores - scores.min())
        return np.abs(scores) if self.transform == "abs" else np.square(scores)


def hill_number(weights: Float64, order: float) -> float:
    """(sum w^a)^(1 / (1 - a)) of `weights` >= 0, scaled to a sum of 1; N where all are 0."""
    if not weights.any():
        return float(len(weights))
    shares = weights[weights > 0] / weights.sum()
    shares = shares[shares > 0]
    logs = np.log(shares)
    mean = float(shares @ logs)
    if order == 1:
        return math.exp(-mean)
    # About the entropy, which is the limit at order 1: both ends of the range keep their digits.
    powers = (order - 1) * (logs - mean)
    top = float(powers.max())
    if top < 1:
        rest = math.log1p(float(shares @ np.expm1(powers)))
    else:
        rest = top + math.log(float(shares @ np.exp(powers - top)))
    return math.exp(rest / (1 - order) - mean)


def guaranteed_mass(size: int, effective: float, kept: int) -> float | None:
    """A lower bound on the share of the `kept` largest weights; None where none is known.

    Of `size` weights with `effective` = 1 / sum w^2. EMP's bounds (arXiv 2509.25606) for
    kept = v = floor(effective) >= 2, and for kept >= effective; the first is false for v = 1.
    """
    whole = math.floor(effective + ROUNDING)
    if whole < 2 or kept < whole:
        return None
    rest = size - kept
    if kept == whole:
        excess = max(0, rest - 1) / ((kept + 1) * (size - 1))
    else:
        excess = max(0.0, size / effective - 1) / (size - 1)
    return kept / size + rest / size * math.sqrt(excess)


def _kept(weights: Float64, order: float, beta: float) -> int:
    """floor(beta * H), 1 to N."""
    wanted = beta * hill_number(weights, order) + ROUNDING
    return max(1, math.floor(min(wanted, len(weights))))
