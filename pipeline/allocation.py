"""From a MACs target to the number of units every group keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.allocators import Allocator
from pipeline.groups import Group
from pipeline.plan import CONVOLUTIONS, TRANSPOSED, channels_of, is_depthwise
from profiles.errors import StageError

Counts = Mapping[str, int]
"""Units kept, by the group's name."""

KNOB_STEPS = 40
"""Halvings of the knob: finer than one channel of any layer."""


@dataclass(frozen=True)
class LayerCost:
    """A layer's MACs, and the channels that they are proportional to."""

    macs: int
    outputs: int
    inputs: int
    """1 for a depthwise convolution, whose inputs go with its outputs."""


@dataclass(frozen=True)
class MacsModel:
    """MACs of one sample as a function of the channels kept. 1 MAC = 2 FLOPs."""

    layers: Mapping[str, LayerCost]
    fixed: int
    """MACs outside convolutions and linear layers, such as attention's products."""

    def total(self, groups: Sequence[Group], counts: Counts) -> int:
        """MACs when each group keeps `counts` of its units."""
        outputs = {name: cost.outputs for name, cost in self.layers.items()}
        inputs = {name: cost.inputs for name, cost in self.layers.items()}
        for group in groups:
            gone = group.size - counts[group.name]
            for member in group.members:
                if member.layer in self.layers:
                    side = outputs if member.side == "out" else inputs
                    side[member.layer] -= gone * len(member.channels) // group.size
        return self.fixed + sum(
            cost.macs * outputs[name] * inputs[name] // (cost.outputs * cost.inputs)
            for name, cost in self.layers.items()
        )


def macs_model(network: nn.Module, example: Tensor) -> MacsModel:
    """Count one forward pass on `example` [1, ...]."""
    costs: dict[str, LayerCost] = {}
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):

            def hook(
                module: nn.Module, args: tuple[Tensor, ...], result: Tensor, name: str = name
            ) -> None:
                before = costs[name].macs if name in costs else 0
                inputs = 1 if is_depthwise(module) else channels_of(module, "in")
                macs = before + _macs(module, args[0], result)
                costs[name] = LayerCost(macs, channels_of(module, "out"), inputs)

            handles.append(layer.register_forward_hook(hook))
    counter = FlopCounterMode(display=False)
    # On a CPU the fused attention kernel is not counted; the plain one is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(example)
    for handle in handles:
        handle.remove()
    counted = sum(cost.macs for cost in costs.values())
    return MacsModel(costs, counter.get_total_flops() // 2 - counted)


def counts_at(
    allocator: Allocator, groups: Sequence[Group], knob: float, multiple: int, floor: int
) -> dict[str, int]:
    """Units kept at `knob`, rounded to `multiple` channels, never below `floor` channels."""
    counts = {}
    for group in groups:
        step = group.unit_multiple(multiple)
        wanted = group.size * (1 - allocator.ratio(group, knob))
        rounded = int(wanted / step + 0.5) * step
        least = -(-floor * group.size // group.channels)
        counts[group.name] = min(group.size, max(rounded, least, 1))
    return counts


def counts_for_macs(
    allocator: Allocator,
    groups: Sequence[Group],
    model: MacsModel,
    macs: float,
    multiple: int,
    floor: int,
) -> dict[str, int]:
    """The largest network on the allocator's path with at most `macs` MACs.

    Bisects the knob; where the last step moves many groups at once, as many of them as fit
    stay at the larger size, the first layers first.
    Raises StageError when even the smallest network is larger.
    """

    def at(knob: float) -> dict[str, int]:
        return counts_at(allocator, groups, knob, multiple, floor)

    dense = {group.name: group.size for group in groups}
    low, high = 0.0, 1.0
    if model.total(groups, at(high)) > macs:
        least = model.total(groups, at(high)) / model.total(groups, dense)
        raise StageError(
            f"at most {macs / 1e6:.2f} MMACs asked, but this allocator with a floor of {floor} "
            f"channels and multiples of {multiple} reaches no less than {least:.3f} of dense"
        )
    for _ in range(KNOB_STEPS):
        middle = (low + high) / 2
        over = model.total(groups, at(middle)) > macs
        low, high = (middle, high) if over else (low, middle)
    counts, larger = at(high), at(low)
    for name in counts:
        raised = {**counts, name: larger[name]}
        if model.total(groups, raised) <= macs:
            counts = raised
    return counts


def _macs(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> int:
    """Every value of the output, or of a transposed convolution's input, meets one filter."""
    if isinstance(layer, nn.Linear):
        return outputs.numel() * layer.in_features
    assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
    moved = inputs if isinstance(layer, TRANSPOSED) else outputs
    return moved.numel() * layer.weight[0].numel()
