"""What torch's operations do to the labels of channels: one rule for each kind of operation."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from pipeline.network.channel_labels import NOBODY, ChannelLabels, varying
from pipeline.network.nested_tensors import tensors_in

RESHAPES = frozenset({"view", "_unsafe_view", "_reshape_alias", "reshape"})

MOVES = frozenset(
    """permute transpose t expand slice select split
    split_with_sizes unbind squeeze unsqueeze cat stack roll flip rot90 reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index index_select repeat
    unfold diagonal im2col upsample_nearest1d upsample_nearest2d upsample_nearest3d""".split()
)
"""Operations whose outputs are values of their first argument, moved: labels move with them."""

FACTORIES = frozenset({"new_zeros", "new_ones", "new_full", "new_empty"})
"""Operations that take no value of their first argument."""

OVERWRITES = frozenset({"copy_", "fill_", "zero_"})
"""Operations that replace the values of their first argument."""

SPLITS = frozenset({"split", "split_with_sizes"})
"""Moves that cut into parts whose widths follow the whole: the same place goes from each part."""

SAME = frozenset(
    """clone contiguous alias detach lift_fresh _to_copy native_dropout zeros_like ones_like
    empty_like full_like rand_like randn_like log_sigmoid_forward""".split()
)
"""Operations whose first output has the shape and the channels of the first argument."""

ELEMENTWISE = frozenset({"_prelu_kernel", "hardswish", "hardswish_"})
"""Element-wise operations that torch does not tag as such."""

REDUCTIONS = frozenset(
    """mean sum amax amin var std prod linalg_vector_norm norm logsumexp max min any all var_mean
    std_mean""".split()
)
"""Operations that reduce the axes `dim`."""

ALONG = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "sort"})
"""Operations of one shape in which all values along `dim` mix."""

POOLS = {
    f"{name}{axes}d{ending}": axes
    for name in ("avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "max_pool", "lp_pool")
    for axes in (1, 2, 3)
    for ending in ("", "_with_indices")
} | {
    **{f"adaptive_max_pool{axes}d": axes for axes in (1, 2, 3)},
    **{"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2},
    **{"_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "upsample_trilinear3d": 3},
}
"""Operations on each channel alone, over so many last axes."""

PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})
ATTENTION = "_scaled_dot_product"


class AtenFunction(Protocol):
    """An operation of ATen, as `OpOverload` has it."""

    tags: Sequence[torch.Tag]
    overloadpacket: object
    _schema: torch.FunctionSchema

    def __call__(self, *args: object, **kwargs: object) -> object: ...


@dataclass(frozen=True)
class Operation:
    """One operation of ATen that has run: its arguments, outputs, and the inputs' labels."""

    function: AtenFunction
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    outputs: Sequence[Tensor]
    labels_of: Callable[[Tensor], Tensor | None]
    name_of: Callable[[Tensor], str]
    """What a tensor that keeps its size is called."""

    @property
    def name(self) -> str:
        return str(getattr(self.function.overloadpacket, "__name__", ""))

    @property
    def tensors(self) -> list[Tensor]:
        """Those it reads, in their order."""
        return list(tensors_in((*self.args, *self.kwargs.values())))

    def given(self, name: str, default: object = None) -> object:
        """The argument of this name in the operation's schema."""
        for place, argument in enumerate(self.function._schema.arguments):
            if argument.name == name:
                if place < len(self.args):
                    return self.args[place]
                return self.kwargs.get(name, argument.default_value)
        return default


def labels_after(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    """The labels of each output; None for an output that belongs to no channel.

    Whatever no rule is known of keeps all its channels.
    """
    name = operation.name
    if all(operation.labels_of(value) is None for value in operation.tensors):
        return [None] * len(operation.outputs)
    if name in ELEMENTWISE or torch.Tag.pointwise in operation.function.tags:
        return _elementwise(labels, operation)
    if name in SAME:
        rest: list[Tensor | None] = [None] * (len(operation.outputs) - 1)
        return [operation.labels_of(operation.tensors[0]), *rest]
    if name in RESHAPES or name in MOVES:
        return _moved(labels, operation)
    if name == "glu":
        return [_gated(labels, operation)]
    if name in FACTORIES:
        return [None]
    if name in OVERWRITES:
        return [_overwritten(labels, operation)]
    if name == "constant_pad_nd":
        return [_padded(operation)]
    if name in REDUCTIONS:
        return _reduced(labels, operation)
    if name in ALONG:
        return _along(labels, operation)
    if name in POOLS:
        return _pooled(labels, operation, POOLS[name])
    if name in PRODUCTS:
        return [_product(labels, operation)]
    if name.startswith(ATTENTION):
        return _attention(labels, operation)
    if name == "native_layer_norm":
        return _layer_norm(labels, operation)
    return _unknown(labels, operation)


def _elementwise(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    """Values at one place are one unit; what keeps its size along the channels keeps them."""
    shape = operation.outputs[0].shape
    found: Tensor | None = None
    axes = _channel_axes(operation)
    for value in operation.tensors:
        own = operation.labels_of(value)
        sizes = [1] * (len(shape) - value.dim()) + list(value.shape)
        if own is None or any(sizes[axis] == 1 for axis in axes):
            continue
        spread = own.expand(shape)
        if found is not None:
            labels.join(found, spread, "it is joined with values that belong to no channel")
        found = spread if found is None else torch.where(found == NOBODY, spread, found)
    if found is None:  # the channels of one lie along another axis than those of the other
        for own in map(operation.labels_of, operation.tensors):
            if own is not None:
                labels.keep(own, "it meets channels of another layer along another axis")
        return [None] * len(operation.outputs)
    for value in operation.tensors:
        own = operation.labels_of(value)
        sizes = [1] * (len(shape) - value.dim()) + list(value.shape)
        if own is not None and any(sizes[axis] == 1 for axis in axes):
            labels.keep(own, "one value of it acts on many channels")
        elif own is None and any(sizes[axis] > 1 for axis in axes):
            labels.keep(found, f"{operation.name_of(value)}, whose channels cannot be removed")
    return [found if one.shape == shape else None for one in operation.outputs]


def _channel_axes(operation: Operation) -> list[int]:
    """The axes of an element-wise operation's output along which a label changes."""
    count = operation.outputs[0].dim()
    found: set[int] = set()
    for value in operation.tensors:
        own = operation.labels_of(value)
        if own is not None:
            found |= {axis + count - own.dim() for axis in varying(own)}
    return sorted(found)


def _gated(labels: ChannelLabels, operation: Operation) -> Tensor:
    own, axis = operation.labels_of(operation.tensors[0]), operation.given("dim", -1)
    assert own is not None
    assert isinstance(axis, int)
    left, right = own.chunk(2, axis)
    labels.join(left, right, "it is gated by values that belong to no channel")
    return left.contiguous()


def _overwritten(labels: ChannelLabels, operation: Operation) -> Tensor | None:
    target, source = operation.tensors[0], operation.tensors[-1]
    before, after = operation.labels_of(target), operation.labels_of(source)
    if before is not None:
        if after is None or source is target:
            labels.keep(before, "its values are overwritten")
        else:
            labels.join(before, after.expand(before.shape), "it is overwritten in part")
        return before
    assert after is not None
    if target.untyped_storage().nbytes() > target.nbytes:  # what it is a part of has to know
        labels.keep(after, "it is written into a part of another tensor")
        return None
    return after.expand(target.shape).contiguous()


def _moved(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    def moved(value: Tensor) -> Tensor:
        own = operation.labels_of(value)
        return torch.full(value.shape, NOBODY, dtype=torch.float64) if own is None else own

    first, *others = operation.args
    tensors = [moved(one) for one in first] if isinstance(first, (list, tuple)) else None
    if operation.name in RESHAPES:
        return [_reshaped(labels, moved(operation.tensors[0]), operation.outputs[0].shape)]
    start = tensors if tensors is not None else moved(operation.tensors[0])
    result = operation.function(start, *map(_on_cpu, others), **operation.kwargs)
    parts = list(tensors_in(result))
    if operation.name in SPLITS:
        axis = operation.given("dim", 0)
        assert isinstance(axis, int)
        if axis % parts[0].dim() in varying(moved(operation.tensors[0])):
            for part in parts[1:]:
                if part.shape == parts[0].shape:
                    labels.join(parts[0], part, "it is cut beside values of no channel")
    return [part.contiguous() for part in parts]


def _reshaped(labels: ChannelLabels, own: Tensor, shape: Sequence[int]) -> Tensor:
    """Where channels become several axes, all but the longest of these have a fixed length.

    Such as the 2 of a shuffle in two groups: the same place goes from each group.
    """
    found, channels = own.reshape(shape), varying(own)
    for before, after in _blocks(own.shape, shape):
        if len(before) == 1 and len(after) > 1 and before[0] in channels:
            follows = max(after, key=lambda axis: (shape[axis], axis))
            first = found
            for axis in after:
                first = first if axis == follows else first.narrow(axis, 0, 1)
            labels.join(found, first.expand(shape), "a reshape puts it beside values of no channel")
    return found


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The axes longer than 1 of two shapes, side by side where they hold the same values."""
    reached = [list(accumulate(shape, operator.mul)) for shape in (before, after)]
    start = 1
    for end in sorted(set(reached[0]) & set(reached[1]) - {1}):
        first, second = (
            [axis for axis, to in enumerate(one) if shape[axis] > 1 and start < to <= end]
            for shape, one in zip((before, after), reached, strict=True)
        )
        yield first, second
        start = end


def _padded(operation: Operation) -> Tensor:
    """Zeros beside pixels belong to the pixels' channels; zeros as channels to nobody."""
    own = operation.labels_of(operation.tensors[0])
    assert own is not None
    widths = operation.given("pad")
    assert isinstance(widths, (list, tuple))
    shape = operation.outputs[0].shape
    axes = [own.dim() - 1 - place // 2 for place, width in enumerate(widths) if width]
    if set(axes) & set(varying(own)):
        return torch.constant_pad_nd(own, list(widths), NOBODY)
    for axis in axes:
        own = own.narrow(axis, 0, 1)
    return own.expand(shape).contiguous()


def _reduced(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    own = operation.labels_of(operation.tensors[0])
    assert own is not None
    axes = _axes(operation.given("dim"), own.dim())
    whole = _joined_along(labels, own, axes, operation.name)
    if not operation.given("keepdim", False):
        whole = whole[tuple(0 if axis in axes else slice(None) for axis in range(own.dim()))]
    return [whole if one.shape == whole.shape else None for one in operation.outputs]


def _along(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    own = operation.labels_of(operation.tensors[0])
    assert own is not None
    axes = _axes(operation.given("dim", -1), own.dim())
    whole = _joined_along(labels, own, axes, operation.name).expand(own.shape)
    return [whole for _ in operation.outputs]


def _layer_norm(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    own = operation.labels_of(operation.tensors[0])
    assert own is not None
    shape = operation.given("normalized_shape")
    assert isinstance(shape, (list, tuple))
    if set(varying(own)) & set(range(own.dim() - len(shape), own.dim())):
        labels.keep(own, "a LayerNorm takes part, whose channels cannot be removed")
    return [own, *[None] * (len(operation.outputs) - 1)]


def _pooled(labels: ChannelLabels, operation: Operation, axes: int) -> list[Tensor | None]:
    own = operation.labels_of(operation.tensors[0])
    assert own is not None
    last = list(range(own.dim() - axes, own.dim()))
    whole = _joined_along(labels, own, last, operation.name)
    return [whole.expand(one.shape).contiguous() for one in operation.outputs]


def _product(labels: ChannelLabels, operation: Operation) -> Tensor | None:
    """Of a matrix product: what is summed over stays, rows and columns keep their labels."""
    left, right = operation.tensors[-2:]
    rows, columns = operation.labels_of(left), operation.labels_of(right)
    shape = operation.outputs[0].shape
    added = operation.labels_of(operation.tensors[0])
    if len(operation.tensors) > 2 and added is not None:
        labels.keep(added, "a matrix product is added to it")
    found: Tensor | None = None
    for own, axis in ((rows, -1), (columns, -2)):
        if own is None:
            continue
        if own.dim() + axis in varying(own):
            labels.keep(own, "a matrix product sums over its channels")
        spread = own.narrow(axis, 0, 1).expand(shape)
        if found is not None:
            for one in (found, spread):
                labels.keep(one, "a matrix product of two such layers takes part")
        found = spread
    return None if found is None else found.contiguous()


def _attention(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    query, key, value = operation.tensors[:3]
    for one in (query, key, *operation.tensors[3:]):
        own = operation.labels_of(one)
        if own is not None:
            labels.keep(own, "attention compares its channels")
    own = operation.labels_of(value)
    if own is None:
        return [None] * len(operation.outputs)
    if own.dim() - 2 in varying(own):
        labels.keep(own, "attention sums over its channels")
    found = own.narrow(-2, 0, 1).expand(operation.outputs[0].shape).contiguous()
    return [found, *[None] * (len(operation.outputs) - 1)]


def _unknown(labels: ChannelLabels, operation: Operation) -> list[Tensor | None]:
    for value in operation.tensors:
        own = operation.labels_of(value)
        if own is not None:
            labels.keep(own, f"{operation.name} takes part, which is not known to leave them apart")
    return [None] * len(operation.outputs)


def _joined_along(labels: ChannelLabels, own: Tensor, axes: Sequence[int], name: str) -> Tensor:
    """The labels with these axes of length 1: those along them have become one."""
    found = own
    for axis in axes:
        found = found.narrow(axis, 0, 1)
    if set(axes) & set(varying(own)):
        labels.join(own, found.expand(own.shape), f"{name} mixes it with values of no channel")
    return found


def _on_cpu(given: object) -> object:
    """An argument, with the tensors in it where labels are."""
    if isinstance(given, (list, tuple)):
        return [_on_cpu(part) for part in given]
    return given.cpu() if isinstance(given, Tensor) else given


def _axes(given: object, count: int) -> list[int]:
    """Axes as an argument `dim` says them; all for none."""
    if isinstance(given, int):
        return [given % count]
    if isinstance(given, (list, tuple)) and given:
        return [int(axis) % count for axis in given]
    return list(range(count))
