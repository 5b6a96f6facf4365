"""What calls of torch's functions are, whoever makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

ACTIVATIONS = frozenset(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid logsigmoid tanh
    hardtanh hardswish hardsigmoid softplus softsign clamp""".split()
)
"""Element-wise functions that may be the sigma of a layer, in place or not."""


POSITIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"})


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
"""A forward hook: the layer, its inputs, its output, and what takes the output's place."""


class Function(Protocol):
    """Any function of torch."""

    def __call__(self, *args: object, **kwargs: object) -> object: ...


def is_in_place(func: Function, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether a call overwrites its first argument."""
    name = getattr(func, "__name__", "")
    return (
        (name.endswith("_") and not name.startswith("__"))
        or name.startswith(("__i", "__set"))
        or bool(kwargs.get("inplace"))
        or any(arg is True for arg in args[1:])
    )
