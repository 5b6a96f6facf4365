"""One forward pass that follows the channels of every layer through whatever becomes of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.data.arrays import IntArray
from pipeline.network.channel_labels import NOBODY, ChannelLabels
from pipeline.network.label_rules import AtenFunction, Operation, labels_after
from pipeline.network.layer_kinds import FilterBank, LayerKind, Side, kind_of
from pipeline.network.nested_tensors import tensors_in

IS_OUTPUT = "its channels are the network's output"
"""Why one group of every network may not be pruned."""


@dataclass(frozen=True)
class TracedChannels:
    """The units of the channels of every layer that ran: those of one unit go together."""

    labels: ChannelLabels
    """Knows why a unit must stay."""
    sides: Mapping[tuple[str, Side], IntArray]
    """[channels] of each side of a layer; 0 where a channel is nobody's."""


def trace_channels(network: nn.Module, example: Tensor) -> TracedChannels:
    """Follow the channels of `network`, in eval mode, on `example` [n, ...].

    Layers whose channels can be removed are known as what they are; everything between them is
    seen operation by operation, so that it does not matter who computes it.
    """
    tracer = _ChannelTracer(network)
    with torch.no_grad(), _plain_attention(), tracer.watching(network), tracer:
        outputs = network(example)
    tracer.end(outputs)
    units = {side: np.array(tracer.labels.units(own)) for side, own in tracer.sides.items()}
    return TracedChannels(tracer.labels, units)


class _ChannelTracer(TorchDispatchMode):
    """Keeps the labels of every tensor that lives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = ChannelLabels()
        self.sides: dict[tuple[str, Side], Tensor] = {}
        self._of = WeakTensorKeyDictionary()
        named = [*network.named_parameters(), *network.named_buffers()]
        self._names = {id(value): name for name, value in named}
        self._inside = 0
        """How many layers are running: what they compute is theirs."""

    @contextlib.contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """With hooks on every layer whose channels can be removed."""
        handles = []
        for name, layer in network.named_modules():
            kind = kind_of(layer)
            if kind is not None and not (kind.one_sided and kind.channels("out") == 1):
                handles.append(layer.register_forward_pre_hook(self._enter))
                handles.append(
                    layer.register_forward_hook(self._leave(name, kind), with_kwargs=True)
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def end(self, outputs: object) -> None:
        """The network's outputs stay."""
        for value in tensors_in(outputs):
            own = self._of.get(value)
            if own is not None:
                self.labels.keep(own, IS_OUTPUT)

    def __torch_dispatch__(
        self,
        func: AtenFunction,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if not self._inside:
            outputs = list(tensors_in(result))
            operation = Operation(func, args, kwargs or {}, outputs, self._of.get, self._name_of)
            if outputs:
                for output, own in zip(outputs, labels_after(self.labels, operation), strict=True):
                    self._set(output, own)
        return result

    def _name_of(self, value: Tensor) -> str:
        name = self._names.get(id(value))
        return f"the tensor {name} takes part" if name else "a tensor of fixed size takes part"

    def _set(self, value: Tensor, own: Tensor | None) -> None:
        if own is not None:
            self._of[value] = own
        else:
            self._of.pop(value, None)

    def _enter(self, _: nn.Module, __: tuple[object, ...]) -> None:
        self._inside += 1

    def _leave(
        self, name: str, kind: LayerKind
    ) -> Callable[[nn.Module, tuple[object, ...], Mapping[str, object], object], None]:
        def hook(
            _: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: object
        ) -> None:
            value = next(tensors_in((*args, *kwargs.values())), None)
            if value is not None and isinstance(output, Tensor):
                self._ran(name, kind, value, output)
            self._inside -= 1

        return hook

    def _ran(self, name: str, kind: LayerKind, value: Tensor, output: Tensor) -> None:
        """What the layer reads and writes, its channels told by their places."""
        axis = -1 if kind.channels_last else 1
        if isinstance(kind, FilterBank) and not kind.channels_last:
            axis = value.dim() - kind.weight.dim() + 1  # there may be no axis of samples
        own = self._of.get(value)
        if own is None:
            own = torch.full(value.shape, NOBODY, dtype=torch.float64)
        rows = own.movedim(axis, -1).reshape(-1, value.shape[axis])
        self.labels.join(rows, rows[:1].expand(rows.shape), "it is read beside other values")
        given = rows[0]
        if not kind.one_sided:
            self._side(name, kind, "in", given)
            given = self.labels.fresh(kind.channels("out"))
        given = self._side(name, kind, "out", given)
        shape = [1] * output.dim()
        shape[axis] = -1
        self._set(output, given.reshape(shape).expand(output.shape).contiguous())

    def _side(self, name: str, kind: LayerKind, side: Side, given: Tensor) -> Tensor:
        """The labels of a side: those of the first call, to which those of others are joined."""
        known = self.sides.setdefault((name, side), given)
        self.labels.join(known, given, "a layer that runs twice reads it beside other values")
        tied = kind.tied_channels(side)
        if tied is not None:
            for label in set(tied.tolist()):
                together = known[torch.from_numpy(tied == label)]
                self.labels.join(together, together[:1].expand(together.shape), f"{name} ties it")
        return known


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """torch's attention layers by their parts, rather than in one operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
