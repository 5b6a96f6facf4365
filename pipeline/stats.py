"""Stats: everything a criterion may know of each layer, from one calibration pass."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.data import FloatArray, Targets
from pipeline.evaluate import loss_of
from pipeline.groups import Group
from pipeline.plan import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, channels_of
from pipeline.task import Task
from profiles.errors import StageError

Float64 = npt.NDArray[np.float64]
Batch = tuple[FloatArray, Targets]

ACTIVATIONS = frozenset(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid logsigmoid tanh
    hardtanh hardswish hardsigmoid softplus softsign clamp""".split()
)
"""Element-wise functions that may be the sigma of a layer, in place or not."""


@dataclass(frozen=True)
class LayerStats:
    """One convolution or linear layer with the batch norm and activation that follow it.

    Gradients are means over the calibration samples, with batch norm in eval mode.
    """

    name: str
    weight: Float64
    """[channels, fan-in]: the layer's own filters."""
    filters: Float64
    """[channels, n]: F of IPPRO: batch norm's scale (n = 1), or the filters without one."""
    filter_gradients: Float64
    """[channels, n]: dL/dF."""
    offset_gradients: Float64
    """[channels]: dL/dD = sum over positions of dL/d(sigma(x)) * x (Eq. 5 of arXiv 2507.14171)."""
    taylor: Float64
    """[channels]: mean over samples of abs(sum over positions of dL/du * u), u before sigma."""


@dataclass
class _Sums:
    """What the backward hooks add up for one layer; the only state, gone after the pass."""

    offset: Tensor
    taylor: Tensor
    has_activation: bool = False


def collect(
    network: nn.Module, groups: Sequence[Group], batches: Iterable[Batch], task: Task
) -> dict[str, LayerStats]:
    """Statistics of every layer that produces a group's channels, by the layer's name.

    Works on a copy in eval mode, so neither weights nor buffers of `network` change.
    Raises StageError for a layer the batches never reach, or whose gradient is not finite.
    """
    network = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    names = scored_layers(network, groups)
    layers = dict(network.named_modules())
    pairs: dict[str, str] | None = None
    sums: dict[str, _Sums] = {}
    samples = 0
    for inputs, targets in batches:
        feed = torch.from_numpy(inputs).to(device)
        if pairs is None:
            pairs = _norms(network, names, feed[:1])
            sums = _prepare(network, names, pairs)
        sources = {pairs.get(name, name): name for name in names}
        with _watching(layers, sources, sums) as watch, torch.enable_grad():
            with watch:
                # The sum over samples, so that batches of any size weigh by their samples.
                loss = loss_of(network, task.loss, feed, targets) * len(inputs)
            loss.backward()
        samples += len(inputs)
    if pairs is None:
        raise StageError("there are no calibration samples")
    return {name: _stats(layers, name, pairs, sums[name], samples) for name in names}


def scored_layers(network: nn.Module, groups: Sequence[Group]) -> list[str]:
    """The convolutions and linear layers whose outputs are in a group."""
    layers = dict(network.named_modules())
    members = (member for group in groups for member in group.members if member.side == "out")
    kinds = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
    return list(dict.fromkeys(m.layer for m in members if isinstance(layers[m.layer], kinds)))


def rows(layer: nn.Module, values: Tensor) -> Tensor:
    """A layer's weight, or its gradient, as [output channels, n]."""
    if isinstance(layer, TRANSPOSED):
        inputs, per_group = values.shape[:2]
        split = values.reshape(layer.groups, inputs // layer.groups, per_group, -1)
        return split.transpose(1, 2).reshape(layer.out_channels, -1)
    return values.reshape(len(values), -1)


def _norms(network: nn.Module, names: Sequence[str], feed: Tensor) -> dict[str, str]:
    """The batch norm that reads each layer's output directly, found on one sample."""
    made_by: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, str] = {}
    handles = []

    def produced(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            made_by[id(output)] = (name, output)

        return hook

    def consumed(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if id(args[0]) in made_by:
                found[made_by[id(args[0])][0]] = name

        return hook

    layers = dict(network.named_modules())
    for name, layer in layers.items():
        if name in names:
            handles.append(layer.register_forward_hook(produced(name)))
        elif isinstance(layer, BATCH_NORMS) and layer.affine:
            handles.append(layer.register_forward_pre_hook(consumed(name)))
    with torch.no_grad():
        network(feed)
    for handle in handles:
        handle.remove()
    return found


def _prepare(
    network: nn.Module, names: Sequence[str], pairs: Mapping[str, str]
) -> dict[str, _Sums]:
    """Ask for the gradients of F alone, and start every sum at zero, in float64."""
    layers = dict(network.named_modules())
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    sums = {}
    for name in names:
        filters = layers[pairs.get(name, name)].get_parameter("weight")
        filters.requires_grad_(True)
        zeros = filters.new_zeros(channels_of(layers[name], "out"), dtype=torch.float64)
        sums[name] = _Sums(zeros, zeros.clone())
    return sums


@contextlib.contextmanager
def _watching(
    layers: Mapping[str, nn.Module], sources: Mapping[str, str], sums: Mapping[str, _Sums]
) -> Iterator["_Watch"]:
    """Hooks for one batch: `sources` maps the layer that gives u to its name."""
    watch = _Watch(sums)
    handles = [
        layers[source].register_forward_hook(watch.source(name)) for source, name in sources.items()
    ]
    try:
        yield watch
    finally:
        watch.release()
        for handle in handles:
            handle.remove()


class _Function(Protocol):
    """Any function of torch."""

    def __call__(self, *args: object, **kwargs: object) -> object: ...


class _Watch(TorchFunctionMode):
    """Sees every function that reads a watched u, whoever calls it, and hooks its gradients.

    Modules alone would miss functional activations and ones used at many places.
    """

    def __init__(self, sums: Mapping[str, _Sums]) -> None:
        super().__init__()
        self._sums = sums
        self._holders: list[list[Tensor]] = []
        self._seen: dict[int, tuple[str, list[Tensor], bool]] = {}

    def source(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """A forward hook for the layer whose output is u."""

        def hook(layer: nn.Module, _: tuple[Tensor, ...], u: Tensor) -> None:
            holder = [u]  # replaced by a copy before anything overwrites u
            self._holders.append(holder)
            last = isinstance(layer, nn.Linear)
            self._seen[id(u)] = (name, holder, last)

            def backward(gradient: Tensor) -> None:
                sample = _per_sample(gradient, holder[0], last)
                sums = self._sums[name]
                sums.taylor += sample.abs().sum(0)
                if not sums.has_activation:
                    sums.offset += sample.sum(0)

            u.register_hook(backward)

        return hook

    def release(self) -> None:
        """Let go of the batch's tensors: u and the hook on it hold each other."""
        for holder in self._holders:
            holder.clear()

    def __torch_function__(
        self,
        func: "_Function",
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        seen = self._seen.get(id(args[0])) if args else None
        if seen is None or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        name, holder, last = seen
        spelled = getattr(func, "__name__", "")
        base = spelled.strip("_")
        in_place = (
            (spelled.endswith("_") and not spelled.startswith("__"))
            or spelled.startswith("__i")
            or bool(kwargs.get("inplace"))
            or any(arg is True for arg in args[1:])
        )
        if in_place:
            holder[0] = args[0].detach().clone()
            del self._seen[id(args[0])]  # from here on this tensor is not u any more
        result = func(*args, **kwargs)
        if base in ACTIVATIONS and isinstance(result, Tensor) and result.requires_grad:
            sums = self._sums[name]
            sums.has_activation = True

            def backward(gradient: Tensor) -> None:
                sums.offset += _per_sample(gradient, holder[0], last).sum(0)

            result.register_hook(backward)
        return result


def _per_sample(gradient: Tensor, value: Tensor, channels_last: bool) -> Tensor:
    """The sum over positions of gradient * value: [samples, channels], float64.

    One sample is summed in the network's own precision; samples are added up in float64.
    """
    product = gradient.detach() * value.detach()
    if channels_last:
        return product.reshape(len(product), -1, product.shape[-1]).sum(1).double()
    return (product.flatten(2).sum(2) if product.dim() > 2 else product).double()


def _stats(
    layers: Mapping[str, nn.Module],
    name: str,
    pairs: Mapping[str, str],
    sums: _Sums,
    samples: int,
) -> LayerStats:
    owner = layers[pairs.get(name, name)]
    weight = owner.get_parameter("weight")
    if weight.grad is None:
        raise StageError(f"{name}: the calibration samples never reach this layer")
    found = LayerStats(
        name=name,
        weight=_array(rows(layers[name], layers[name].get_parameter("weight"))),
        filters=_array(rows(owner, weight)),
        filter_gradients=_array(rows(owner, weight.grad)) / samples,
        offset_gradients=_array(sums.offset) / samples,
        taylor=_array(sums.taylor) / samples,
    )
    for field in (found.filter_gradients, found.offset_gradients, found.taylor):
        if not np.isfinite(field).all():
            raise StageError(f"{name}: its gradients are not finite on the calibration samples")
    return found


def _array(values: Tensor) -> Float64:
    return values.detach().cpu().double().numpy()
