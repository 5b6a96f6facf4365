"""Where each layer's answer counts: after its batch norm, in the sum it joins, before a ReLU."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.layers.linear_check import linear_layers
from pipeline.layers.output_tracker import OutputTracker, tracking
from pipeline.layers.torch_calls import UNBOUNDED, Call, Range
from pipeline.network.layer_kinds import BatchNorm, LinearMap, Padding, kind_of
from pipeline.network.nested_tensors import tensors_in


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
    padding: Padding | None = None
    """What the layer pads in its own `forward`; None where its attributes say it."""


@dataclass(frozen=True)
class _Stage:
    """A layer's output on its way: as it comes, normed, or in a sum."""

    layers: tuple[str, ...]
    kind: Literal["raw", "normed", "sum"]


class _SiteFinder(OutputTracker):
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
        self._padded: dict[int, tuple[Tensor, Tensor, Padding]] = {}
        """A padded tensor by its id: itself, what was padded, and how."""
        self._convolved: dict[int, tuple[Tensor, Tensor]] = {}
        """The output of a convolution by its id: itself, and what was convolved."""
        self.paddings: dict[str, Padding] = {}
        """What layers pad in their own `forward`, by their names."""

    def ran(self, name: str, places: tuple[int, ...], inputs: Tensor, output: Tensor) -> None:
        """The layer `name` has made `output` of `inputs`."""
        self._places[name] = places
        self._calls[name] += 1
        convolved = self._convolved.get(id(output))
        padded = self._padded.get(id(convolved[1])) if convolved else None
        if padded and padded[1] is inputs:
            self.paddings[name] = padded[2]
        if id(inputs) in self._makers:
            self._sources[name] = self._makers[id(inputs)][1]

    def sites(self, linear: Collection[str]) -> dict[str, Site]:
        """The layers of `linear` that ran once."""
        once = (name for name in self._places if self._calls[name] == 1)
        found = {name: self._site(name) for name in once if name in linear}
        return {name: self._linked(site, found) for name, site in found.items()}

    def _site(self, name: str) -> Site:
        """What else reads an output than what follows would see it changed, so it ends there."""
        end = _Stage((name,), "raw")
        norm = self._norms.get(name)
        if norm and (self._reads[end] != 1 or self._calls[norm] != 1):
            norm = None
        if norm:
            end = _Stage((name,), "normed")
        shared_norm = name in self._norms and norm is None
        joins = name in self._sums and self._reads[end] == 1 and not shared_norm
        if joins:
            end = self._sums[name]
        limits = self._ranges.get(end, UNBOUNDED) if self._reads[end] == 1 else UNBOUNDED
        padding = self.paddings.get(name)
        return Site(name, self._places[name], norm, joins, limits, self._sources.get(name), padding)

    def _linked(self, site: Site, found: Mapping[str, Site]) -> Site:
        """`reads` only where that layer's activated output has no other reader."""
        source = found.get(site.reads or "")
        if source is None or source.joins or source.range == UNBOUNDED:
            return replace(site, reads=None)
        return site if self._reads[source.layer] == 1 else replace(site, reads=None)

    def track(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        super().track(layers, value, summed)
        kind: Literal["raw", "normed", "sum"] = "sum" if summed else "raw"
        if not summed and layers[0] in self._norms:
            kind = "normed"
        self._stages[id(value)] = (value, _Stage(layers, kind))

    def on_batch_norm(self, layer: str, norm: str) -> None:
        self._norms[layer] = norm
        self._calls[norm] += 1

    def after_sum(self, layers: Sequence[str], result: Tensor) -> None:
        for layer in layers:
            self._sums[layer] = _Stage(tuple(layers), "sum")

    def on_activation(self, value: Tensor, limits: Range, result: Tensor) -> None:
        stage = self._stages[id(value)][1]
        self._ranges[stage] = limits
        if len(stage.layers) == 1:
            self._makers[id(result)] = (result, stage.layers[0])

    def on_call(self, call: Call) -> object:
        stages = [self._stages[id(v)][1] for v in call.tensors if id(v) in self._stages]
        makers = [self._makers[id(v)][1] for v in call.tensors if id(v) in self._makers]
        for value in call.overwritten:
            self._makers.pop(id(value), None)
        result = super().on_call(call)
        if isinstance(result, Tensor) and call.first is not None:
            if call.padding is not None:
                self._padded[id(result)] = (result, call.first, Padding(*call.padding))
            elif call.is_convolution:
                self._convolved[id(result)] = (result, call.first)
        if not call.overwritten and next(tensors_in(result), None) is None:  # asks for the shape
            return result
        if call.returns_its_input and stages and isinstance(result, Tensor):
            self._stages[id(result)] = (result, stages[0])
            return result
        self._reads.update(stages)
        self._reads.update(makers)
        for value in call.overwritten:
            if not self.is_tracked(value):
                self._stages.pop(id(value), None)
        return result


def find_sites(network: nn.Module, example: Tensor) -> dict[str, Site]:
    """Every convolution and linear layer that runs once, in the order they run.

    Transposed convolutions are not among them, nor layers that do more than their weights and
    padding say. `network` is in eval mode; it runs on the first sample of `example` [n, ...].
    """
    # In a batch of one, what is added to every sample alike has the shape of a layer's output.
    batch = torch.cat([example[:1], example[:1]])
    finder = _SiteFinder()
    layers = dict(network.named_modules())
    kinds = {name: kind_of(layer) for name, layer in layers.items()}
    maps = {name: kind for name, kind in kinds.items() if isinstance(kind, LinearMap)}

    def ran(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            finder.ran(name, maps[name].positions(result), args[0], result)

        return hook

    norms = [n for n, kind in kinds.items() if isinstance(kind, BatchNorm) and kind.foldable]
    handles = [kind.layer.register_forward_hook(ran(name)) for name, kind in maps.items()]
    try:
        with torch.no_grad(), tracking(layers, maps, norms, finder):
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return finder.sites(linear_layers(network, batch, maps, finder.paddings))


def norms_of(sites: Iterable[Site]) -> set[str]:
    """The batch norms that belong to layers."""
    return {site.norm for site in sites if site.norm}
