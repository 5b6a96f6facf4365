"""The columns of a network's outputs, each compared on its own range.

One output often holds values of several kinds, such as boxes in pixels beside scores: on one range
for all, losing every score would look like rounding.
"""

from dataclasses import dataclass

import numpy as np

from exporters.arrays import FloatArray

LEAST_SPREAD = 0.02
"""A column that varies by less than this part of the largest output is taken to vary by so much:
rounding on the way to small outputs is as large as on the way to large ones."""
SCORE_SPREAD = 0.005
"""The same of scores, which lie in [0, 1] whatever lies beside them: most classes are in no
picture, and stay near 0."""
FEWEST_SCORES = 16
"""A column of fewer values is not taken for scores: of a thousand classes' outputs for a few
inputs some lie in [0, 1], close together, by chance."""


@dataclass(frozen=True)
class ColumnError:
    """How far one column of the outputs is from its reference."""

    column: str
    """The column's place, for people."""
    error: float
    """The root mean square difference over the standard deviation of the reference: 0 is equal,
    and 1 is what a constant would do."""


def column_errors(wanted: FloatArray, found: FloatArray) -> list[list[ColumnError]]:
    """The errors of every column of outputs [n, ...] of equal shape, for each axis of columns.

    Columns lie along the first axis behind the batch; along the last one too where outputs are
    [n, anchors, values].
    """
    if wanted.ndim == 1:
        wanted, found = wanted[:, None], found[:, None]
    axes = (1, 2) if wanted.ndim == 3 else (1,)
    return [_along(axis, wanted, found) for axis in axes]


def worst_column(wanted: FloatArray, found: FloatArray) -> ColumnError:
    """The column of outputs [n, ...] that is farthest from its reference."""
    errors = [one for along in column_errors(wanted, found) for one in along]
    return max(errors, key=lambda one: one.error)


def mean_squared_column_error(wanted: FloatArray, found: FloatArray) -> float:
    """The mean over the columns of the squared error, on the axis where it is largest.

    NaN or infinite where an output is.
    """
    along = column_errors(wanted, found)
    return float(np.max([np.mean([one.error**2 for one in errors]) for errors in along]))


def _along(axis: int, wanted: FloatArray, found: FloatArray) -> list[ColumnError]:
    least = LEAST_SPREAD * float(np.abs(wanted).max())
    errors = []
    for index in range(wanted.shape[axis]):
        want = wanted.take(index, axis).astype(np.float64)
        difference = float(np.sqrt(np.square(found.take(index, axis) - want).mean()))
        is_score = want.size >= FEWEST_SCORES and want.min() >= 0 and 0 < want.max() <= 1
        spread = max(float(want.std()), SCORE_SPREAD if is_score else least)
        errors.append(ColumnError(f"column {index} of axis {axis}", difference / (spread or 1.0)))
    return errors
