"""What a graph costs, as `exporters.graph.macs` counts it."""

from dataclasses import dataclass

from pydantic import NonNegativeInt

from profiles.spec import Spec


class LayerCost(Spec):
    """One operator with weights, or one product of two values."""

    name: str
    """Of its weight, or else of the node."""
    op: str
    macs: NonNegativeInt
    """Of one sample."""
    channels: NonNegativeInt
    """Of its output."""


@dataclass(frozen=True)
class Cost:
    """MACs of one sample, and the number of trained values."""

    macs: int
    parameters: int
