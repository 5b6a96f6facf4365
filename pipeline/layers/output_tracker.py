"""Tracks the outputs of layers through a forward pass: batch norms, sums, activations."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from pipeline.layers.torch_calls import Call, Range, TorchCalls


@dataclass(frozen=True)
class Operand:
    """One side of an addition, and the layers whose outputs it is; none for a stranger."""

    value: Tensor
    layers: tuple[str, ...]


@dataclass(frozen=True)
class _TrackedOutput:
    """A tensor that holds the output of some layers; not kept alive."""

    value: TensorWeakRef
    layers: tuple[str, ...]
    summed: bool


class OutputTracker(TorchCalls):
    """Tracks the outputs of layers through a forward pass, whoever calls the functions."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: dict[int, _TrackedOutput] = {}

    def on_batch_norm(self, layer: str, norm: str) -> None:
        """The batch norm `norm` has read a layer's output."""

    def before_sum(self, left: Operand, right: Operand) -> None:
        """The output of at least one layer is about to be added."""

    def after_sum(self, layers: Sequence[str], result: Tensor) -> None:
        """The outputs of `layers` have been added."""

    def on_activation(self, value: Tensor, limits: Range, result: Tensor) -> None:
        """A ReLU or clamp has read `value`, the output of a layer or a sum of several."""

    def run_call(self, call: Call) -> object:
        """The result of `call`, which layers' outputs have been looked for in."""
        return call.run()

    def track(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        """From here on `value` is the output of `layers`."""
        self._outputs[id(value)] = _TrackedOutput(TensorWeakRef(value), layers, summed)

    def is_tracked(self, value: Tensor) -> bool:
        """Whether `value` holds the output of layers."""
        return self._find(value) is not None

    def unsummed_layer(self, value: Tensor) -> str | None:
        """The one layer whose output, in no sum yet, `value` is."""
        found = self._find(value)
        return found.layers[0] if found and not found.summed else None

    def on_call(self, call: Call) -> object:
        operands = self._operands(call)
        layers = sum((operand.layers for operand in operands), ())
        read = self._find(call.first)
        if layers:
            self.before_sum(*operands)
        result = self.run_call(call)
        if read and call.first is not None and call.range and isinstance(result, Tensor):
            self.on_activation(call.first, call.range, result)
        if read and call.returns_its_input and isinstance(result, Tensor):
            self._outputs[id(result)] = replace(read, value=TensorWeakRef(result))
        for value in call.overwritten:
            self._outputs.pop(id(value), None)
        if layers and isinstance(result, Tensor):
            self.after_sum(layers, result)
            self.track(layers, result, summed=True)
        return result

    def _find(self, value: Tensor | None) -> _TrackedOutput | None:
        """What is known of `value`, and not of a tensor before it that had its id."""
        found = self._outputs.get(id(value))
        return found if found and found.value() is value else None

    def _operands(self, call: Call) -> tuple[Operand, ...]:
        """Both sides of a sum of two tensors of one shape; none for a doubling."""
        if call.addends is None:
            return ()
        left, right = call.addends
        if left.shape != right.shape or left is right:
            return ()
        return self._operand(left), self._operand(right)

    def _operand(self, value: Tensor) -> Operand:
        """A side of a sum; a sum in it has been compared already."""
        found = self._find(value)
        return Operand(value, found.layers if found and not found.summed else ())


@contextlib.contextmanager
def tracking(
    modules: Mapping[str, nn.Module],
    layers: Iterable[str],
    norms: Collection[str],
    tracker: OutputTracker,
) -> Iterator[None]:
    """Show `tracker` the outputs of `layers` and of the batch norms of `norms` that read them.

    Both are names of `modules`.
    """

    def output(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor, ...], result: Tensor) -> None:
            tracker.track((name,), result)

        return hook

    def norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            layer = tracker.unsummed_layer(args[0])
            if layer:
                tracker.on_batch_norm(layer, name)
                tracker.track((layer,), result)

        return hook

    handles = [modules[name].register_forward_hook(output(name)) for name in layers]
    handles += [modules[name].register_forward_hook(norm(name)) for name in norms]
    try:
        with tracker:
            yield
    finally:
        for handle in handles:
            handle.remove()
