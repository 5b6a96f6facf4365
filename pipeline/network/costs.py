"""MACs, parameters and time of a network as a function of the units that its groups keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.arrays import IntArray
from pipeline.network.groups import Group
from pipeline.network.layer_kinds import FilterBank, LayerKind, kind_of
from pipeline.network.layer_times import NetworkTimes, time_model

Counts = Mapping[str, int]
"""Units kept, by the group's name."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]

WEIGHT_BYTES = 4
"""Of one parameter in fp32."""


@dataclass(frozen=True)
class Cost:
    """What one network costs. 1 MAC = 2 FLOPs, of one sample."""

    macs: int
    parameters: int
    time: float = 1.0
    """Over the dense network's, where times of its layers are known: on the slowest to gain."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs, and the channels it is proportional to."""

    macs: int
    weights: int
    """Grow as the MACs do, with outputs * inputs."""
    vectors: int
    """Biases, and the weights of a norm: grow with the outputs alone."""
    outputs: int
    inputs: int
    """1 where the inputs go with the outputs: depthwise convolutions, norms."""


@dataclass(frozen=True)
class MacsModel:
    """What a network costs when some of its channels are gone."""

    layers: Mapping[str, LayerCost]
    fixed: Cost
    """What no group can change, such as the products of attention."""
    times: tuple[NetworkTimes, ...] = ()
    """Of its layers on each device that it is pruned for."""

    def over(self, groups: Sequence[Group]) -> "GroupCosts":
        """The same for these groups, made ready for many counts."""
        return GroupCosts(self, groups)

    def total(self, groups: Sequence[Group], counts: Counts) -> int:
        """MACs when each group keeps `counts` of its units."""
        return self.over(groups).at(counts).macs

    def parameters(self, groups: Sequence[Group], counts: Counts) -> int:
        """Trained values when each group keeps `counts` of its units."""
        return self.over(groups).at(counts).parameters


class GroupCosts:
    """A MacsModel over given groups, in arrays: microseconds a call."""

    def __init__(self, model: MacsModel, groups: Sequence[Group]) -> None:
        places = {name: place for place, name in enumerate(model.layers)}
        layers = model.layers.values()
        self._names = [group.name for group in groups]
        self._sizes = np.array([group.size for group in groups], dtype=np.int64)
        self._fixed = model.fixed
        self._macs = np.array([layer.macs for layer in layers], dtype=np.float64)
        self._weights = np.array([layer.weights for layer in layers], dtype=np.float64)
        self._vectors = np.array([layer.vectors for layer in layers], dtype=np.float64)
        # Outputs of every layer, then inputs of every layer.
        sides = [layer.outputs for layer in layers] + [layer.inputs for layer in layers]
        self._channels = np.array(sides, dtype=np.int64)
        members = [
            (
                index,
                len(member.channels),
                places[member.layer] + len(places) * (member.side == "in"),
            )
            for index, group in enumerate(groups)
            for member in group.members
            if member.layer in places
        ]
        sizes = {name: (layer.outputs, layer.inputs) for name, layer in model.layers.items()}
        self._times = [time_model(times, sizes) for times in model.times]
        table: IntArray = np.array(members, dtype=np.int64).reshape(-1, 3)
        self._group, self._width, self._place = table.T

    def at(self, counts: Counts) -> Cost:
        """The cost when each group keeps `counts` of its units; none at all is allowed."""
        kept = np.array([counts[name] for name in self._names], dtype=np.int64)
        gone = (self._sizes - kept)[self._group] * self._width // self._sizes[self._group]
        removed = np.bincount(self._place, weights=gone, minlength=len(self._channels))
        outputs, inputs = np.split(1 - removed / self._channels, 2)
        both = outputs * inputs
        # Whole numbers far below 2^53: what rounding is left in the products is taken out here.
        macs = np.rint(self._macs * both).sum()
        parameters = np.rint(self._weights * both).sum() + np.rint(self._vectors * outputs).sum()
        left = np.split(self._channels - removed.astype(np.int64), 2)
        return Cost(
            self._fixed.macs + int(macs),
            self._fixed.parameters + int(parameters),
            max((times.at(*left) for times in self._times), default=1.0),
        )


def macs_model(network: nn.Module, example: Tensor) -> MacsModel:
    """Count one forward pass on `example` [1, ...], and the parameters."""
    macs: dict[str, int] = {}
    handles = []

    def count(name: str, filters: FilterBank) -> Hook:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            macs[name] = macs.get(name, 0) + filters.macs(args[0], result)

        return hook

    kinds = {name: kind for name, layer in network.named_modules() if (kind := kind_of(layer))}
    for name, kind in kinds.items():
        if isinstance(kind, FilterBank):
            handles.append(kind.layer.register_forward_hook(count(name, kind)))
    counter = FlopCounterMode(display=False)
    # On a CPU the fused attention kernel is not counted; the plain one is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(example)
    for handle in handles:
        handle.remove()
    costs = {name: _layer_cost(kind, macs.get(name, 0)) for name, kind in kinds.items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    fixed = Cost(
        counter.get_total_flops() // 2 - sum(macs.values()),
        parameters - sum(cost.weights + cost.vectors for cost in costs.values()),
    )
    return MacsModel(costs, fixed)


def _layer_cost(kind: LayerKind, macs: int) -> LayerCost:
    total = sum(parameter.numel() for parameter in kind.layer.parameters(recurse=False))
    weights = kind.weight.numel() if isinstance(kind, FilterBank) else 0
    inputs = 1 if kind.one_sided else kind.channels("in")
    return LayerCost(macs, weights, total - weights, kind.channels("out"), inputs)
