"""What is known of an epoch after it, and which of them was best."""

from collections.abc import Iterable

from profiles.spec import Spec


class Epoch(Spec):
    """Mean training loss, and means over the held-out samples after an epoch; 0 is before."""

    epoch: int
    """The number of the epoch, from 1; 0 is the network before any training."""
    loss: float | None
    """The mean training loss; None for epoch 0."""
    score: float
    """The mean of the task's metric over the held-out samples."""
    distance: float | None
    """The mean distance from the dense network's outputs; None where nothing is distilled."""


def best_of(epochs: Iterable[Epoch]) -> Epoch:
    """The first of the epochs nearest to the dense network, or, without one, of highest score.

    Nearly all held-out samples are right before and after: only the distance tells epochs apart.
    """
    return min(epochs, key=lambda e: -e.score if e.distance is None else e.distance)
