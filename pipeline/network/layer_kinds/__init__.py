"""The table of layer kinds: what pruning and repair know of torch's layers, one kind a file.

A kind in `KINDS` is pruned, counted, scored and, where it is a `LinearMap`, repaired.
"""

from torch import nn

from pipeline.network.layer_kinds.batch_norm import BatchNorm
from pipeline.network.layer_kinds.convolution import Convolution
from pipeline.network.layer_kinds.group_norm import GroupNorm
from pipeline.network.layer_kinds.instance_norm import InstanceNorm
from pipeline.network.layer_kinds.kind import FilterBank, LayerKind, LinearMap, Padding, Side
from pipeline.network.layer_kinds.linear import Linear
from pipeline.network.layer_kinds.prelu import PRelu
from pipeline.network.layer_kinds.response_norm import ResponseNorm
from pipeline.network.layer_kinds.transposed_convolution import TransposedConvolution

__all__ = [
    "FILTER_BANKS",
    "KINDS",
    "BatchNorm",
    "FilterBank",
    "LayerKind",
    "LinearMap",
    "Padding",
    "Side",
    "filter_bank",
    "kind_of",
    "linear_map",
]

KINDS: tuple[type[LayerKind], ...] = (
    Convolution,
    TransposedConvolution,
    Linear,
    BatchNorm,
    InstanceNorm,
    GroupNorm,
    PRelu,
    ResponseNorm,
)
FILTER_BANKS = tuple(one for kind in KINDS if issubclass(kind, FilterBank) for one in kind.TYPES)
"""torch's classes of layers with filters: what a criterion scores, and where a group begins."""


def kind_of(layer: nn.Module) -> LayerKind | None:
    """`layer` as its kind sees it; None for a layer whose channels cannot be removed."""
    return next((kind(layer) for kind in KINDS if kind.holds(layer)), None)


def filter_bank(layer: nn.Module) -> FilterBank:
    """`layer`, which is known to have filters, as its kind sees it."""
    kind = kind_of(layer)
    if not isinstance(kind, FilterBank):
        raise TypeError(f"a {type(layer).__name__} has no filters")
    return kind


def linear_map(layer: nn.Module) -> LinearMap:
    """`layer`, which is known to be a linear map of sampled rows, as its kind sees it."""
    kind = kind_of(layer)
    if not isinstance(kind, LinearMap):
        raise TypeError(f"a {type(layer).__name__} is no linear map of rows")
    return kind
