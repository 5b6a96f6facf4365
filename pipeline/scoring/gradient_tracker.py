"""What the gradients of one backward pass tell of each layer, added up by hooks as they come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from pipeline.layers.torch_calls import Call, Hook, TorchCalls
from pipeline.scoring.channel_sums import by_channel, in_turn
from profiles.errors import StageError


class _Context(Protocol):
    """What a forward hands to its backward."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class GradientSums:
    """One layer's: v is what it hands on (c, batch norm's input), u = slope * v + intercept.

    Without a batch norm v is u. Sums are float64; one sample's positions are summed in the
    network's own precision.
    """

    def __init__(
        self, slope: Tensor, intercept: Tensor, shift: Tensor, filter_norm: Tensor
    ) -> None:
        self.slope, self._intercept = slope.double(), intercept.double()
        # The offset norm(F) * v - (u - shift) is offset_slope * v + offset_constant.
        self._offset_slope = (filter_norm - slope).double()
        self._offset_constant = (shift - intercept).double()
        # Nearer to 0 it cannot be divided by, and does not count beside the constant.
        least = 1e-6 * self._offset_constant.abs()
        small = self._offset_slope.abs() < least
        self._divisor = torch.where(small, least, self._offset_slope)
        self._ratio = torch.where(self._divisor == 0, 0, self._offset_constant / self._divisor)
        zeros = torch.zeros_like(self.slope)
        self.taylor, self.offset, self.per_position = zeros, zeros.clone(), zeros.clone()
        self.begin_batch()

    def begin_batch(self) -> None:
        zeros = torch.zeros_like(self.slope)
        self.gradient, self.by_value, self.by_activation = zeros, zeros.clone(), zeros.clone()
        """The sums over the batch of dL/du, dL/du * v and dL/d(sigma(u)) * u."""

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
        sample = self.slope * by_value + self._intercept * plain
        self.taylor += sample.abs().sum(0)
        self.offset += (self._offset_slope * by_value + self._offset_constant * plain).abs().sum(0)
        self.per_position += self._divisor.abs() * positions.sum(0)
        self.gradient += plain.sum(0)
        self.by_value += by_value.sum(0)
        plain, by_value = sums[-2:] if after is not None else sums[:2]
        self.by_activation += (self.slope * by_value + self._intercept * plain).sum(0)


class _Scaled(torch.autograd.Function):
    """The output that a batch norm in eval mode has made of its input.

    Its own backward also sums up the gradients of scale and shift, which `GradientSums` has anyway.
    """

    @staticmethod
    def forward(ctx: _Context, value: Tensor, made: list[Tensor], slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return made.pop()

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


@dataclass
class _LayerRun:
    """One run of a layer: its u, known by a weak reference, and v until the gradient came."""

    layer: str
    u: TensorWeakRef
    v: Tensor | None
    v_version: int
    v_is_u: bool
    channels_last: bool
    activation_gradient: Tensor | None = None
    """dL/d(sigma(u)), the sum over all activations that read u; None where none does."""

    def by_channel(self, value: Tensor) -> Tensor:
        return by_channel(value.detach(), self.channels_last)

    def checked_v(self) -> Tensor:
        """v. Raises StageError where it is not what the layer handed on any more."""
        assert self.v is not None
        if self.v._version != self.v_version:
            raise StageError(
                f"{self.layer}: its output is overwritten in place through a view; "
                "write that step of the network out of place"
            )
        return self.v


class GradientTracker(TorchCalls):
    """Hooks the gradients at a layer's u, and after every activation that reads u.

    Modules alone would miss functional activations and ones used at many places. v is kept
    rather than u: batch norm keeps v for its own gradient, so it costs no memory.
    """

    def __init__(self, sums: Mapping[str, GradientSums]) -> None:
        super().__init__()
        self._sums = sums
        self._runs: dict[int, _LayerRun] = {}
        self._non_negative: dict[int, tuple[TensorWeakRef, int]] = {}

    def track(self, layer: str, v: Tensor, u: Tensor, channels_last: bool) -> None:
        """`layer` handed on `v`, and its batch norm made `u` of it; without one they are one."""
        if not u.requires_grad:
            return
        # Detached, for a hook that holds its own tensor would never be freed.
        kept = v.detach()
        run = _LayerRun(layer, TensorWeakRef(u), kept, kept._version, v is u, channels_last)
        self._runs[id(u)] = run

        def backward(gradient: Tensor) -> None:
            found = run.activation_gradient
            after = None if found is None else run.by_channel(found)
            self._sums[layer].add(run.by_channel(gradient), run.by_channel(run.checked_v()), after)
            run.v = run.activation_gradient = None

        u.register_hook(backward)

    def track_normed(self, layer: str, v: Tensor, u: Tensor) -> Tensor:
        """As `track`, for the batch norm's output; the network goes on with what is returned."""
        made = u.detach()
        shape = (-1, *[1] * (u.dim() - 2))
        scaled: Tensor = _Scaled.apply(v, [made], self._sums[layer].slope.to(u).view(shape))
        self.track(layer, v, scaled, channels_last=False)
        return scaled

    def is_non_negative(self, value: Tensor) -> bool:
        """Whether `value` is the output of an activation that is never below 0, unchanged."""
        ref, version = self._non_negative.get(id(value), (None, 0))
        return ref is not None and ref() is value and value._version == version

    def on_call(self, call: Call) -> object:
        run = self._run_of(call.first)
        for value in call.overwritten:
            self._stop_tracking(value)
        result = call.run()
        if not isinstance(result, Tensor):
            return result
        if call.is_non_negative:
            self._non_negative[id(result)] = (TensorWeakRef(result), result._version)
        if run and call.is_activation and result.requires_grad:
            _add_activation_gradient(run, result)
        return result

    def _run_of(self, value: Tensor | None) -> _LayerRun | None:
        """The run whose u `value` is, and not that of a tensor before it that had its id."""
        run = self._runs.get(id(value))
        return run if run and run.u() is value else None

    def _stop_tracking(self, value: Tensor) -> None:
        """`value` is about to be overwritten: from here on it is no layer's u any more."""
        run = self._run_of(value)
        if run is None:
            return
        if run.v_is_u and run.v is not None:
            run.v = run.v.clone()
            run.v_version = run.v._version
        del self._runs[id(value)]


def _add_activation_gradient(run: _LayerRun, activated: Tensor) -> None:
    """Add the gradient at `activated`, which an activation made of u, when it comes."""

    def backward(gradient: Tensor) -> None:
        found, before = gradient.detach(), run.activation_gradient
        run.activation_gradient = found if before is None else before + found

    activated.register_hook(backward)


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
