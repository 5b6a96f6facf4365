"""Follows the outputs of layers through a forward pass: batch norms, sums, activations."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from pipeline.layers.torch_calls import Function

Range = tuple[float, float]


UNBOUNDED: Range = (-float("inf"), float("inf"))


RELU: Range = (0.0, float("inf"))


RANGES: Mapping[str, Range] = {"relu": RELU, "relu_": RELU, "relu6": (0.0, 6.0)}


CLAMP = "hardtanh"
"""What torch's ReLU6 module calls, with its limits as arguments."""


SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})


SAME = frozenset({"dropout", "dropout_"})
"""Functions that in eval mode return what they are given."""


@dataclass(frozen=True)
class Operand:
    """One side of an addition, and the layers whose outputs it is; none for a stranger."""

    value: Tensor
    layers: tuple[str, ...]


@dataclass(frozen=True)
class _Owned:
    """A tensor that holds the output of some layers; not kept alive."""

    value: TensorWeakRef
    layers: tuple[str, ...]
    summed: bool


class Follow(TorchFunctionMode):
    """Follows the outputs of layers through a forward pass, whoever calls the functions."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[int, _Owned] = {}

    def normed(self, layer: str, norm: str) -> None:
        """The batch norm `norm` has read a layer's output."""

    def adding(self, left: Operand, right: Operand) -> None:
        """The output of at least one layer is about to be added."""

    def added(self, layers: Sequence[str], result: Tensor) -> None:
        """The outputs of `layers` have been added."""

    def activated(self, value: object, limits: Range, result: Tensor) -> None:
        """A ReLU or clamp has read `value`, the output of a layer or a sum of several."""

    def own(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        """From here on `value` is the output of `layers`."""
        self._owners[id(value)] = _Owned(TensorWeakRef(value), layers, summed)

    def owners(self, value: object) -> tuple[str, ...]:
        """The layers whose outputs `value` holds; none for another tensor."""
        found = self._find(value)
        return found.layers if found else ()

    def alone(self, value: object) -> str | None:
        """The one layer whose output, in no sum yet, `value` is."""
        found = self._find(value)
        return found.layers[0] if found and not found.summed else None

    def _find(self, value: object) -> "_Owned | None":
        """What is known of `value`, and not of a tensor before it that had its id."""
        found = self._owners.get(id(value))
        return found if found and found.value() is value else None

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = self.owners(args[0]) if args else ()
        if name in SUMS and len(args) > 1:
            return self._sum(func, args, kwargs)
        if not first:
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        limits = _range(name, kwargs)
        if limits and isinstance(result, Tensor):
            self.activated(args[0], limits, result)
        if name in SAME and isinstance(result, Tensor):
            found = self._owners[id(args[0])]
            self._owners[id(result)] = replace(found, value=TensorWeakRef(result))
        elif result is args[0]:
            del self._owners[id(result)]  # overwritten in place
        return result

    def _sum(self, func: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        left, right = (self._operand(arg) for arg in args[:2])
        if not left or not right or left.value.shape != right.value.shape:
            return func(*args, **kwargs)
        if left.value is right.value:
            return func(*args, **kwargs)  # a doubling
        layers = left.layers + right.layers
        if layers:
            self.adding(left, right)
        result = func(*args, **kwargs)
        if layers and isinstance(result, Tensor):
            self.added(layers, result)
            self.own(layers, result, summed=True)
        return result

    def _operand(self, value: object) -> Operand | None:
        """A side of a sum; a sum in it has been compared already."""
        if not isinstance(value, Tensor):
            return None
        found = self._find(value)
        return Operand(value, found.layers if found and not found.summed else ())


@contextlib.contextmanager
def following(
    network: nn.Module, layers: Iterable[str], norms: Collection[str], mode: Follow
) -> Iterator[None]:
    """Show `mode` the outputs of `layers` and of the batch norms among `norms` that read them."""

    def output(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor, ...], result: Tensor) -> None:
            mode.own((name,), result)

        return hook

    def norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            layer = mode.alone(args[0])
            if layer:
                mode.normed(layer, name)
                mode.own((layer,), result)

        return hook

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_hook(output(name)) for name in layers]
    handles += [modules[name].register_forward_hook(norm(name)) for name in norms]
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _range(function: str, kwargs: Mapping[str, object]) -> Range | None:
    """What a function lets through unchanged; None where that is no interval."""
    if function == CLAMP:
        low, high = kwargs.get("min_val", -1.0), kwargs.get("max_val", 1.0)
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        return float(low), float(high)
    return RANGES.get(function)
