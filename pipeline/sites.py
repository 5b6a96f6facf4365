"""Where each layer's answer counts: after its batch norm, in the sum it joins, before a ReLU."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from pipeline.plan import BATCH_NORMS, CONVOLUTIONS
from pipeline.watch import Function

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
class Site:
    """A convolution or linear layer, and the place where its output is compared."""

    layer: str
    places: tuple[int, ...]
    """The shape of the output without samples and channels: positions, or tokens."""
    norm: str | None = None
    """The batch norm that reads the layer's output."""
    joins: bool = False
    """Whether the output is added to another one: then the sum is what counts."""
    range: Range = UNBOUNDED
    """What the activation that follows lets through; beyond it only the side counts."""
    reads: str | None = None
    """The layer whose activated output is this layer's input, and nobody else's."""


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


@dataclass(frozen=True)
class _Stage:
    """A layer's output on its way: as it comes, normed, or in a sum."""

    layers: tuple[str, ...]
    kind: Literal["raw", "normed", "sum"]


class _Discover(Follow):
    """Notes what becomes of each layer's output, and who reads it on its way."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, tuple[int, ...]] = {}
        self._calls: Counter[str] = Counter()
        self._norms: dict[str, str] = {}
        self._sums: dict[str, _Stage] = {}
        self._ranges: dict[_Stage, Range] = {}
        self._stages: dict[int, tuple[Tensor, _Stage]] = {}
        self._makers: dict[int, tuple[Tensor, str]] = {}
        self._sources: dict[str, str] = {}
        self._reads: Counter[_Stage | str] = Counter()
        """Of each stage, and, by the layer's name, of its activated output."""

    def ran(self, name: str, places: tuple[int, ...], inputs: Tensor) -> None:
        """The layer `name` has read `inputs`."""
        self._places[name] = places
        self._calls[name] += 1
        if id(inputs) in self._makers:
            self._sources[name] = self._makers[id(inputs)][1]

    def sites(self) -> dict[str, Site]:
        """The layers that ran once."""
        found = {name: self._site(name) for name in self._places if self._calls[name] == 1}
        return {name: self._linked(site, found) for name, site in found.items()}

    def _site(self, name: str) -> Site:
        """What else reads an output than what follows would see it changed, so it ends there."""
        end = _Stage((name,), "raw")
        norm = self._norms.get(name)
        if norm and (self._reads[end] != 1 or self._calls[norm] != 1):
            norm = None
        if norm:
            end = _Stage((name,), "normed")
        joins = name in self._sums and self._reads[end] == 1
        if joins:
            end = self._sums[name]
        limits = self._ranges.get(end, UNBOUNDED) if self._reads[end] == 1 else UNBOUNDED
        return Site(name, self._places[name], norm, joins, limits, self._sources.get(name))

    def _linked(self, site: Site, found: Mapping[str, Site]) -> Site:
        """`reads` only where that layer's activated output has no other reader."""
        source = found.get(site.reads or "")
        if source is None or source.joins or source.range == UNBOUNDED:
            return replace(site, reads=None)
        return site if self._reads[source.layer] == 1 else replace(site, reads=None)

    def own(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        super().own(layers, value, summed)
        kind: Literal["raw", "normed", "sum"] = "sum" if summed else "raw"
        if not summed and layers[0] in self._norms:
            kind = "normed"
        self._stages[id(value)] = (value, _Stage(layers, kind))

    def normed(self, layer: str, norm: str) -> None:
        self._norms[layer] = norm
        self._calls[norm] += 1

    def added(self, layers: Sequence[str], result: Tensor) -> None:
        for layer in layers:
            self._sums[layer] = _Stage(tuple(layers), "sum")

    def activated(self, value: object, limits: Range, result: Tensor) -> None:
        stage = self._stages[id(value)][1]
        self._ranges[stage] = limits
        if len(stage.layers) == 1:
            self._makers[id(result)] = (result, stage.layers[0])

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        values = [*_flat(args), *(kwargs or {}).values()]
        stages = [self._stages[id(value)][1] for value in values if id(value) in self._stages]
        makers = [self._makers[id(value)][1] for value in values if id(value) in self._makers]
        result = super().__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if not isinstance(result, Tensor):  # a question for the shape
            return result
        if name in SAME and stages:
            self._stages[id(result)] = (result, stages[0])
            return result
        self._reads.update(stages)
        self._reads.update(makers)
        if stages and args and result is args[0] and id(result) not in self._owners:
            del self._stages[id(result)]
        return result


def _range(function: str, kwargs: Mapping[str, object]) -> Range | None:
    """What a function lets through unchanged; None where that is no interval."""
    if function == CLAMP:
        low, high = kwargs.get("min_val", -1.0), kwargs.get("max_val", 1.0)
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        return float(low), float(high)
    return RANGES.get(function)


def _flat(values: tuple[object, ...]) -> Iterator[object]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def find_sites(network: nn.Module, example: Tensor) -> dict[str, Site]:
    """Every convolution and linear layer that runs once, in the order they run.

    Transposed convolutions are not among them. `network` is in eval mode.
    """
    mode = _Discover()
    modules = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear))
    }

    def ran(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            places = result.shape[1:-1] if isinstance(module, nn.Linear) else result.shape[2:]
            mode.ran(name, tuple(places), args[0])

        return hook

    norms = [
        name
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS) and module.affine and module.track_running_stats
    ]
    handles = [module.register_forward_hook(ran(name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), following(network, modules, norms, mode):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return mode.sites()


def norms_of(sites: Iterable[Site]) -> set[str]:
    """The batch norms that belong to layers."""
    return {site.norm for site in sites if site.norm}
