"""Every call of torch's functions as one record, and the one mode that shows such calls."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Protocol

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.network.nested_tensors import tensors_in

Range = tuple[float, float]

UNBOUNDED: Range = (-float("inf"), float("inf"))

RELU: Range = (0.0, float("inf"))

RANGES: Mapping[str, Range] = {"relu": RELU, "relu6": (0.0, 6.0)}
"""Activations that let one interval through unchanged, and clamp what lies outside."""

HARDTANH = "hardtanh"
"""Clamps to limits that are its arguments; torch's ReLU6 module calls it too."""
HARDTANH_RANGE: Range = (-1.0, 1.0)
"""The defaults of these limits."""

ACTIVATIONS = frozenset(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid log_sigmoid tanh
    hardtanh hardswish hardsigmoid softplus softsign clamp clip""".split()
)
"""Element-wise functions that may be the sigma of a layer, in place or not."""

NON_NEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"})
"""Activations whose output is never below 0."""

SUMS = frozenset({"add", "iadd", "radd"})

PAD = "pad"
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})

DROPOUTS = frozenset(
    """dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout
    feature_alpha_dropout""".split()
)
"""Functions that return the values they are given, unless they train."""

IN_PLACE_OPERATORS = frozenset(
    """__iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __idiv__ __ifloordiv__ __imod__
    __ipow__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__ __setitem__ __set__""".split()
)
"""What `x += y` and its kin, `x[i] = y` and `x.data = y` call."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
"""A forward hook: the layer, its inputs, its output, and what takes the output's place."""


class Function(Protocol):
    """Any function of torch."""

    def __call__(self, *args: object, **kwargs: object) -> object: ...


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a function of torch, before it has run."""

    function: Function
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def run(self) -> object:
        """The function's result."""
        return self.function(*self.args, **self.kwargs)

    def run_on(self, value: Tensor) -> object:
        """The function's result for another first argument."""
        others = {name: given for name, given in self.kwargs.items() if name != "input"}
        return self.function(value, *self.args[1:], **others)

    @cached_property
    def name(self) -> str:
        """The function's name without its underscores: `add` for `add_` and for `__add__`."""
        return self._full_name.strip("_")

    @cached_property
    def first(self) -> Tensor | None:
        """The first argument, or the one named `input`; None where that is no tensor."""
        first = self._argument(0, "input")
        return first if isinstance(first, Tensor) else None

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that the call reads, those in lists included, each as often as given."""
        named = (value for name, value in self.kwargs.items() if name != "out")
        return tuple(tensors_in((*self.args, *named)))

    @cached_property
    def overwritten(self) -> tuple[Tensor, ...]:
        """The tensors whose values the call replaces: `out`, or the first argument."""
        if self.kwargs.get("out") is not None:
            return tuple(tensors_in(self.kwargs["out"]))
        if not self._is_written_in_place() or self.returns_its_input:
            return ()
        return tuple(tensors_in(self._argument(0, "input")))

    @property
    def is_in_place(self) -> bool:
        """Whether the call overwrites its first argument."""
        return any(value is self.first for value in self.overwritten)

    @property
    def is_activation(self) -> bool:
        """Whether the function may be the sigma of a layer."""
        return self.name in ACTIVATIONS

    @property
    def is_non_negative(self) -> bool:
        """Whether an activation's output is never below 0."""
        return self.name in NON_NEGATIVE or (self.range is not None and self.range[0] >= 0)

    @property
    def range(self) -> Range | None:
        """What an activation lets through unchanged; None where that is no interval."""
        if self.name != HARDTANH:
            return RANGES.get(self.name)
        low = self._argument(1, "min_val", HARDTANH_RANGE[0])
        high = self._argument(2, "max_val", HARDTANH_RANGE[1])
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        return float(low), float(high)

    @property
    def is_addition(self) -> bool:
        """Whether the call adds, one side scaled by `alpha` or not."""
        return self.name in SUMS

    @cached_property
    def addends(self) -> tuple[Tensor, Tensor] | None:
        """x and y of x + y; None where one is scaled by `alpha`, or is a number."""
        other = self._argument(1, "other")
        if not self.is_addition or self.kwargs.get("alpha", 1) != 1:
            return None
        return (self.first, other) if self.first is not None and isinstance(other, Tensor) else None

    @property
    def is_convolution(self) -> bool:
        """Whether the call is a convolution that reads its first argument."""
        return self.name in CONVOLUTIONS

    @property
    def padding(self) -> tuple[tuple[int, ...], str, float] | None:
        """Widths, mode and value of a call that pads; None for any other."""
        if self.name != PAD:
            return None
        widths, mode = self._argument(1, "pad", ()), self._argument(2, "mode", "constant")
        value = self._argument(3, "value")
        assert isinstance(widths, (list, tuple))
        number = float(value) if isinstance(value, (int, float)) else 0.0
        return tuple(int(width) for width in widths), str(mode), number

    @property
    def returns_its_input(self) -> bool:
        """Whether the result has the values of the first argument: a dropout in eval mode."""
        training = self._argument(2, "train", self.kwargs.get("training"))
        return self.name in DROPOUTS and training is False

    @cached_property
    def _full_name(self) -> str:
        """As torch spells it, without the overload of an operator of ATen."""
        name: str = getattr(self.function, "__name__", "")
        return name.partition(".")[0]

    def _argument(self, position: int, name: str, default: object = None) -> object:
        """One argument, wherever it stands."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def _is_written_in_place(self) -> bool:
        """Whether the function's name or its argument `inplace` says so."""
        name = self._full_name
        if name in IN_PLACE_OPERATORS:
            return True
        if name.endswith("_") and not name.endswith("__"):
            return name != "requires_grad_"  # it changes no value
        if "inplace" in self.kwargs or len(self.args) < 2:
            return bool(self.kwargs.get("inplace"))
        given = dict(zip(_parameters(self.function), self.args, strict=False))
        return bool(given.get("inplace"))


class TorchCalls(TorchFunctionMode):
    """Shows each call of torch's functions that is made under it, but not those it makes itself.

    A subclass overrides `on_call`.
    """

    def on_call(self, call: Call) -> object:
        """Run `call`; what is returned takes the place of the function's result."""
        return call.run()

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return self.on_call(Call(func, args, kwargs or {}))


def _parameters(function: Function) -> Sequence[str]:
    """The names of a function's parameters; none for one that is built in."""
    if not isinstance(function, FunctionType):
        return ()
    return list(inspect.signature(function).parameters)
