"""Numerical agreement of two versions of one network on the same inputs."""

from collections.abc import Callable, Iterable

import numpy as np
from pydantic import NonNegativeFloat

from exporters.base import FloatArray
from profiles.errors import StageError
from profiles.spec import Spec

Network = Callable[[FloatArray], FloatArray]

FP32_TOLERANCE = 1e-4
"""Largest `Parity.error` allowed."""


class Parity(Spec):
    """The worst figures over all inputs; `error` is the one that is judged."""

    max_abs: NonNegativeFloat
    error: NonNegativeFloat
    """max_abs / max(1, largest absolute output of the reference).

    Below outputs of 0.1 the divisor is 10 times the largest: near zero any two networks agree.
    """
    top1_agreement: NonNegativeFloat
    inputs: int


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
    rows = want.reshape(len(want), -1), got.reshape(len(got), -1)
    return Parity(
        max_abs=max_abs,
        error=max_abs / min(max(1.0, largest), 10 * largest),
        top1_agreement=float(np.mean(rows[0].argmax(1) == rows[1].argmax(1))),
        inputs=len(want),
    )


def require(step: str, parity: Parity, tolerance: float = FP32_TOLERANCE) -> Parity:
    """`parity` itself when within the tolerance; raises StageError naming the step otherwise."""
    if not parity.error <= tolerance:
        raise StageError(
            f"{step} changed the network: largest relative difference {parity.error:.2e}, "
            f"allowed {tolerance:.0e}; top-1 agreement {parity.top1_agreement:.1%} "
            f"on {parity.inputs} inputs"
        )
    return parity


def feeds_of(inputs: FloatArray, dynamic_batch: bool) -> list[FloatArray]:
    """`inputs` [n, ...] as batches of one, and where the batch is free one batch of all."""
    ones = [inputs[i : i + 1] for i in range(len(inputs))]
    return [*ones, inputs] if dynamic_batch else ones
