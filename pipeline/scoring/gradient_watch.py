"""What one forward and backward pass shows of each layer, added up by hooks as it goes by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from pipeline.layers.torch_calls import ACTIVATIONS, POSITIVE, Function, Hook, is_in_place
from profiles.errors import StageError

AT_ONCE = 2**17
"""Numbers reduced at a time on a CPU, so that what is made of them stays in its cache."""


def moments(value: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of value^2 and of value, a channel each, of [n, channels, positions].

    On a CPU by way of a batch norm's gradients of scale and shift, which are these two sums:
    its kernel reads each number once.
    """
    if value.is_cuda:
        return value.square().sum((0, 2)).double(), value.sum((0, 2)).double()
    one, zero = torch.ones_like(value[0, :, 0]), torch.zeros_like(value[0, :, 0])
    norm = (one, zero, one, None, None, False, 0.0, (False, True, True))
    _, square, total = torch.ops.aten.native_batch_norm_backward(value, value, *norm)
    return square.double(), total.double()


def in_turn(value: Tensor) -> Sequence[Tensor]:
    """[n, channels, positions] as [n * channels, positions], some rows at a time."""
    rows = value.flatten(0, 1)
    size = len(rows) if value.is_cuda else AT_ONCE // max(1, rows.shape[1])
    parts: Sequence[Tensor] = rows.split(max(1, size))
    return parts


@torch.no_grad()
def absolute_sum(value: Tensor) -> Tensor:
    """[channels], float64, of [n, channels, positions]."""
    sums = torch.cat([rows.abs().sum(1) for rows in in_turn(value)])
    return sums.view(value.shape[:2]).double().sum(0)


class _Context(Protocol):
    """What a forward hands to its backward."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class Moments:
    """Sums over samples and positions, a channel each, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.square = self.absolute = torch.zeros(())

    @torch.no_grad()
    def add(self, value: Tensor, positive: bool = True) -> None:
        """Add [n, channels, positions]; `positive` where abs is known to change nothing."""
        square, total = moments(value)
        self.count += value.shape[0] * value.shape[2]
        self.total, self.square = self.total + total, self.square + square
        self.absolute = self.absolute + (total if positive else absolute_sum(value))

    def variance(self) -> Tensor:
        return (self.square / self.count - (self.total / self.count) ** 2).clamp(min=0)


class Watched:
    """One layer: v is what it hands on (c, batch norm's input), u = slope * v + rise.

    Without a batch norm v is u. Sums are float64; one sample's positions are summed in the
    network's own precision.
    """

    def __init__(self, slope: Tensor, rise: Tensor, shift: Tensor, norm: Tensor) -> None:
        self.slope, self._rise = slope.double(), rise.double()
        # norm(F) * v - (u - shift) = tilt * v + lift = tilt * (v + ratio)
        self._tilt, self._lift = (norm - slope).double(), (shift - rise).double()
        # Nearer to 0 it cannot be divided by, and does not count beside the lift.
        least = 1e-6 * self._lift.abs()
        self._divisor = torch.where(self._tilt.abs() < least, least, self._tilt)
        self._ratio = torch.where(self._divisor == 0, 0, self._lift / self._divisor)
        zeros = torch.zeros_like(self.slope)
        self.taylor, self.offset, self.per_position = zeros, zeros.clone(), zeros.clone()
        self.begin_batch()

    def begin_batch(self) -> None:
        zeros = torch.zeros_like(self.slope)
        self.gradient, self.by_value, self.by_activation = zeros, zeros.clone(), zeros.clone()
        """Of the batch: the sums of dL/du, dL/du * v and dL/d(sigma(u)) * u."""

    def add(self, gradient: Tensor, value: Tensor, after: Tensor | None) -> None:
        """Add v and dL/du, and dL/d(sigma(u)) where an activation reads u.

        All are [n, channels, positions].
        """
        found = []
        gradients, values = in_turn(gradient), in_turn(value)
        afters = gradients if after is None else in_turn(after)
        ratios = self._ratio.to(value).repeat(len(value))[:, None].split(len(values[0]))
        for g, v, a, ratio in zip(gradients, values, afters, ratios, strict=True):
            product = g * v
            sums = [g.sum(1), product.sum(1)]
            sums.append(product.addcmul_(g, ratio).abs_().sum(1))
            if a is not g:
                sums += [a.sum(1), torch.mul(a, v, out=product).sum(1)]
            found.append(torch.stack(sums))
        sums = list(torch.cat(found, 1).double().view(-1, *value.shape[:2]))
        plain, by_value, positions = sums[:3]
        sample = self.slope * by_value + self._rise * plain
        self.taylor += sample.abs().sum(0)
        self.offset += (self._tilt * by_value + self._lift * plain).abs().sum(0)
        self.per_position += self._divisor.abs() * positions.sum(0)
        self.gradient += plain.sum(0)
        self.by_value += by_value.sum(0)
        plain, by_value = sums[-2:] if after is not None else sums[:2]
        self.by_activation += (self.slope * by_value + self._rise * plain).sum(0)


class _Scaled(torch.autograd.Function):
    """The output that a batch norm in eval mode has made of its input.

    Its own backward also sums up the gradients of scale and shift, which `Watched` has anyway.
    """

    @staticmethod
    def forward(ctx: _Context, value: Tensor, made: list[Tensor], slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return made.pop()

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def by_channel(value: Tensor, channels_last: bool) -> Tensor:
    """[n, channels, positions]"""
    if channels_last:
        return value.reshape(len(value), -1, value.shape[-1]).transpose(1, 2)
    return value.flatten(2) if value.dim() > 2 else value[:, :, None]


@dataclass
class _Use:
    """One call of a layer: its u, known by a weak reference, and v until the gradient came."""

    layer: str
    u: TensorWeakRef
    value: Tensor | None
    version: int
    is_u: bool
    last: bool
    after: Tensor | None = None

    def view(self, value: Tensor) -> Tensor:
        return by_channel(value.detach(), self.last)

    def v(self) -> Tensor:
        assert self.value is not None
        if self.value._version != self.version:
            raise StageError(
                f"{self.layer}: its output is overwritten in place through a view; "
                "write that step of the network out of place"
            )
        return self.value


class Watch(TorchFunctionMode):
    """Hooks the gradients at a layer's u, and after every activation that reads u.

    Modules alone would miss functional activations and ones used at many places. v is kept
    rather than u: batch norm keeps v for its own gradient, so it costs no memory.
    """

    def __init__(self, layers: Mapping[str, Watched]) -> None:
        super().__init__()
        self._layers = layers
        self._uses: dict[int, _Use] = {}
        self._positive: dict[int, tuple[TensorWeakRef, int]] = {}

    def source(self, layer: str, value: Tensor, u: Tensor, last: bool) -> None:
        """`layer` handed on `value`, and its batch norm made u of it; without one they are one."""
        if not u.requires_grad:
            return
        # Detached, for a hook that holds its own tensor would never be freed.
        kept = value.detach()
        use = _Use(layer, TensorWeakRef(u), kept, kept._version, value is u, last)
        self._uses[id(u)] = use

        def backward(gradient: Tensor) -> None:
            after = None if use.after is None else use.view(use.after)
            self._layers[layer].add(use.view(gradient), use.view(use.v()), after)
            use.value = use.after = None

        u.register_hook(backward)

    def normed(self, layer: str, value: Tensor, u: Tensor) -> Tensor:
        """As `source`, for the batch norm's output, which the network goes on with."""
        made = u.detach()
        shape = (-1, *[1] * (u.dim() - 2))
        scaled: Tensor = _Scaled.apply(value, [made], self._layers[layer].slope.to(u).view(shape))
        self.source(layer, value, scaled, last=False)
        return scaled

    def is_positive(self, value: Tensor) -> bool:
        """Whether `value` is the output of an activation that is never below 0, unchanged."""
        ref, version = self._positive.get(id(value), (None, 0))
        return ref is not None and ref() is value and value._version == version

    def _note(self, name: str, kwargs: Mapping[str, object], result: object) -> None:
        # nn.ReLU6 is a hardtanh from 0 to 6.
        positive = name in POSITIVE or (name == "hardtanh" and kwargs.get("min_val") == 0)
        if positive and isinstance(result, Tensor):
            self._positive[id(result)] = (TensorWeakRef(result), result._version)

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("input")
        use = self._uses.get(id(first))
        name = getattr(func, "__name__", "").strip("_")
        if use is None or use.u() is not first:
            result = func(*args, **kwargs)
            self._note(name, kwargs, result)
            return result
        if is_in_place(func, args, kwargs):
            if use.is_u and use.value is not None:
                use.value = use.value.clone()
                use.version = use.value._version
            del self._uses[id(first)]  # from here on this tensor is not u any more
        result = func(*args, **kwargs)
        self._note(name, kwargs, result)
        if name in ACTIVATIONS and isinstance(result, Tensor) and result.requires_grad:

            def backward(gradient: Tensor) -> None:
                found = gradient.detach()
                use.after = found if use.after is None else use.after + found

            result.register_hook(backward)
        return result


def readers_of(
    network: nn.Module,
    names: Sequence[str],
    kinds: tuple[type[nn.Module], ...],
    feed: Tensor,
) -> dict[str, str]:
    """The module of `kinds` that reads each layer's output directly, found on one sample."""
    made_by: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, str] = {}
    handles = []

    def produced(name: str) -> Hook:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            made_by[id(output)] = (name, output)

        return hook

    def consumed(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if id(args[0]) in made_by:
                found[made_by[id(args[0])][0]] = name

        return hook

    for name, layer in network.named_modules():
        if name in names:
            handles.append(layer.register_forward_hook(produced(name)))
        elif isinstance(layer, kinds):
            handles.append(layer.register_forward_pre_hook(consumed(name)))
    with torch.no_grad():
        network(feed)
    for handle in handles:
        handle.remove()
    return found
