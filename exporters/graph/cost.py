"""What a graph costs, as `exporters.graph.macs` counts it."""

from dataclasses import dataclass

from pydantic import NonNegativeInt

from profiles.spec import Spec


class LayerCost(Spec):
    """One operator with weights, or one product of two values."""

    name: str
    """The name of its weight, or else of its node."""
    op: str
    macs: NonNegativeInt
    """The multiply-accumulates of one sample."""
    channels: NonNegativeInt
    """The channels of its output."""


@dataclass(frozen=True)
class Cost:
    """MACs of one sample, and the number of trained values."""

    macs: int
    parameters: int
