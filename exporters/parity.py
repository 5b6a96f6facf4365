"""Numerical agreement of two versions of one network on the same inputs."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from exporters.arrays import FloatArray
from exporters.columns import worst_column
from profiles.device import Precision
from profiles.errors import StageError
from profiles.spec import Spec

Network = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Tolerance:
    """What one step of export or build may change at most."""

    error: float
    """The largest `Parity.error`."""
    column_error: float
    """The largest `Parity.column_error`."""
    top1_agreement: float
    """The least `Parity.top1_agreement`."""


TOLERANCES: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(1e-4, 1e-3, 0.98),
    "fp16": Tolerance(5e-2, 0.1, 0.98),
    "int8": Tolerance(1.0, 0.7, 0.9),
}
"""The tolerances on images, by precision. An int8 engine is near, not equal: of a few dozen images
two or three may change, and what it loses on all of them the gate's accuracy says. Of 1,000 columns
of MobileNetV2 the worst is off by 0.36 at int8 and by 0.014 at fp16; one that is lost, by 1.
Largest differences are of single values: of a detector's 40,000 one is off by 0.03 at fp16 and by
0.67 at int8.
"""
NOISE_TOLERANCES: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(5e-4, 1e-2, 0.98),
    "fp16": Tolerance(1e-1, 0.5, 0.98),
    "int8": Tolerance(2.5, math.inf, 0.0),
}
"""The tolerances on noise and edge inputs, where networks amplify rounding, and for which int8
has no ranges.
"""
DECIDED_LEAD = 0.1
"""The reference is decided on an input if its best output leads by this part of the range of its
outputs.
"""


class Parity(Spec):
    """The worst figures over all inputs."""

    max_abs: NonNegativeFloat
    error: NonNegativeFloat
    """max_abs / max(1, largest absolute output of the reference).

    Below outputs of 0.1 the divisor is 10 times the largest: near zero any two networks agree.
    """
    column_error: NonNegativeFloat
    """The worst column's root mean square difference over its own standard deviation."""
    worst_column: str
    """The column of the outputs that is off most."""
    top1_agreement: NonNegativeFloat
    """The part of the decided inputs with the same first class; 1 where none is decided."""
    decided: NonNegativeInt
    """The number of inputs that the reference is decided on."""
    inputs: NonNegativeInt
    """The number of inputs."""


def compare(reference: Network, candidate: Network, feeds: Iterable[FloatArray]) -> Parity:
    """Run both on every feed, each [batch, ...].

    Raises StageError for non-finite outputs, shapes that differ, no feed at all, and a
    reference whose output never changes: with it, agreement would prove nothing.
    """
    expected, found = [], []
    for index, feed in enumerate(feeds):
        want, got = reference(feed), candidate(feed)
        if want.shape != got.shape:
            raise StageError(f"outputs differ in shape: {want.shape} and {got.shape}")
        for name, values in (("reference", want), ("candidate", got)):
            if not np.isfinite(values).all():
                raise StageError(f"the {name} gives NaN or infinity on input {index}")
        expected.append(want)
        found.append(got)
    if not expected:
        raise StageError("parity needs at least one input")
    want, got = np.concatenate(expected), np.concatenate(found)
    if np.ptp(want) == 0 or (len(want) > 1 and (want == want[0]).all()):
        raise StageError("the network answers the same for every input: are its weights loaded?")
    max_abs = float(np.abs(want.astype(np.float64) - got).max())
    largest = float(np.abs(want).max())
    worst = worst_column(want, got)
    agrees, decided = _top1(want.reshape(len(want), -1), got.reshape(len(got), -1))
    return Parity(
        max_abs=max_abs,
        error=max_abs / min(max(1.0, largest), 10 * largest),
        column_error=worst.error,
        worst_column=worst.column,
        top1_agreement=agrees,
        decided=decided,
        inputs=len(want),
    )


def require(
    step: str,
    parity: Parity,
    precision: Precision = "fp32",
    tolerances: Mapping[Precision, Tolerance] = TOLERANCES,
) -> Parity:
    """`parity` itself when within the tolerance; raises StageError naming the step otherwise."""
    allowed = tolerances[precision]
    near = parity.error <= allowed.error and parity.column_error <= allowed.column_error
    if not (near and parity.top1_agreement >= allowed.top1_agreement):
        raise StageError(
            f"{step} changed the network: largest relative difference {parity.error:.2e}, "
            f"allowed {allowed.error:.0e} at {precision}; {parity.worst_column} off by "
            f"{parity.column_error:.2g} of its spread, allowed {allowed.column_error:g}; "
            f"the same first class on {parity.top1_agreement:.1%} of {parity.decided} decided "
            f"inputs, allowed {allowed.top1_agreement:.0%}"
        )
    return parity


def require_agreement(
    step: str,
    pair: tuple[Network, Network],
    feeds: tuple[Iterable[FloatArray], Iterable[FloatArray]],
    precision: Precision,
) -> tuple[Parity, Parity]:
    """Reference and candidate compared on images, and on noise and edges, each as strictly as due.

    Raises StageError naming the step, and all that `compare` does.
    """
    on_images, elsewhere = (compare(*pair, of) for of in feeds)
    require(step, on_images, precision)
    require(f"{step}, on noise and edges,", elsewhere, precision, NOISE_TOLERANCES)
    return on_images, elsewhere


def _top1(wanted: FloatArray, found: FloatArray) -> tuple[float, int]:
    """Agreement of the largest of each row [n, values], where the reference is decided."""
    if wanted.shape[1] < 2:
        return 1.0, 0
    ranked = np.sort(wanted, axis=1)
    decided = ranked[:, -1] - ranked[:, -2] >= DECIDED_LEAD * (ranked[:, -1] - ranked[:, 0])
    decided &= ranked[:, -1] > ranked[:, 0]
    if not decided.any():
        return 1.0, 0
    same = wanted[decided].argmax(1) == found[decided].argmax(1)
    return float(same.mean()), int(decided.sum())


def feeds_of(inputs: FloatArray, dynamic_batch: bool) -> list[FloatArray]:
    """`inputs` [n, ...] as batches of one, and where the batch is free one batch of all."""
    ones = [inputs[i : i + 1] for i in range(len(inputs))]
    return [*ones, inputs] if dynamic_batch else ones
