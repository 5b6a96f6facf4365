"""From a budget to the number of units every group keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np
from torch import nn

from pipeline.data.arrays import FloatArray
from pipeline.network.costs import WEIGHT_BYTES, Cost, Counts, MacsModel
from pipeline.network.groups import Group
from pipeline.network.layer_kinds import FilterBank, filter_bank, kind_of
from pipeline.prune.allocators import Allocator, Candidate, Staircase
from pipeline.prune.exchange import exchanged
from pipeline.scoring.collect import Float64
from profiles.errors import StageError

KNOB_STEPS = 40
"""Halvings of the knob: finer than one channel of any layer."""


@dataclass(frozen=True)
class Limits:
    """What a network may cost at most; all that are given have to hold."""

    macs: float | None = None
    """MACs of one sample; 1 MAC = 2 FLOPs."""
    parameters: float | None = None
    """The number of trained values."""
    size_bytes: float | None = None
    """The size of the parameters in fp32."""
    time: float | None = None
    """Over the dense network's, by the times of its layers."""

    def largest(self) -> tuple[float, float]:
        """The most MACs and parameters that are allowed; infinite where nothing limits them."""
        of_size = inf if self.size_bytes is None else self.size_bytes / WEIGHT_BYTES
        parameters = inf if self.parameters is None else self.parameters
        return inf if self.macs is None else self.macs, min(parameters, of_size)

    def allow(self, cost: Cost) -> bool:
        macs, parameters = self.largest()
        in_time = self.time is None or cost.time <= self.time
        return cost.macs <= macs and cost.parameters <= parameters and in_time


@dataclass(frozen=True)
class Widths:
    """The numbers of channels that a layer may keep."""

    multiple: int = 1
    """A layer keeps a multiple of so many channels, or all."""
    floor: int = 1
    """No layer keeps fewer channels; 8 keeps layers from collapsing."""
    floor_ratio: float = 0.0
    """No layer keeps a smaller part of its channels; 0.1 keeps layers from collapsing."""
    staircases: Mapping[str, Staircase] = field(default_factory=dict, hash=False)
    """The widths of groups of which times are known, by their names, within those above."""

    def nearest(self, group: Group, wanted: float) -> int:
        """The units that the group may keep nearest to `wanted`."""
        if stairs := self.staircases.get(group.name):
            return int(stairs.units[np.argmin(np.abs(stairs.units - wanted))])
        step = group.unit_multiple(self.multiple)
        rounded = int(wanted / step + 0.5) * step
        if wanted > (group.size // step * step + group.size) / 2:
            rounded = group.size
        return max(rounded, self.smallest(group))

    def smallest(self, group: Group) -> int:
        """The fewest units that the group keeps."""
        if stairs := self.staircases.get(group.name):
            return int(stairs.units[0])
        step = group.unit_multiple(self.multiple)
        channels = max(self.floor, ceil(self.floor_ratio * group.channels), 1)
        least = ceil(channels * group.size / group.channels / step) * step
        return min(group.size, least)

    def wider(self, group: Group, units: int) -> int:
        """The next larger number of units that the group may keep; more than all after that."""
        if stairs := self.staircases.get(group.name):
            place = int(np.searchsorted(stairs.units, units, side="right"))
            return int(stairs.units[place]) if place < len(stairs.units) else group.size + 1
        return units + group.unit_multiple(self.multiple)


def candidates_of(
    network: nn.Module,
    groups: Sequence[Group],
    model: MacsModel,
    scores: Mapping[str, Float64],
    errors: Mapping[str, Float64],
    widths: Widths = Widths(),
) -> list[Candidate]:
    """What allocators may know of each group; `scores` and `errors` by the group's name.

    A group may have no errors: an allocator that needs them says so.
    """
    layers = dict(network.named_modules())
    costs = model.over(groups)
    whole = {group.name: group.size for group in groups}
    dense = costs.at(whole)
    found = []
    for group in groups:
        without = costs.at({**whole, group.name: 0})
        found.append(
            Candidate(
                group=group,
                scores=scores[group.name],
                macs=(dense.macs - without.macs) / group.size,
                parameters=(dense.parameters - without.parameters) / group.size,
                errors=errors.get(group.name, np.empty(0)),
                shape=_shape(layers[group.name]),
                weights=_weights(layers, group),
                staircase=widths.staircases.get(group.name),
            )
        )
    return found


def counts_at_knob(
    knob: float, allocator: Allocator, candidates: Sequence[Candidate], widths: Widths
) -> dict[str, int]:
    """Units that each group keeps at `knob`: the nearest multiple of channels, or the whole group.

    Never fewer channels than the floors of `widths`.
    """
    kept = zip(candidates, allocator.keep(candidates, knob), strict=True)
    return {one.group.name: widths.nearest(one.group, one.group.size * part) for one, part in kept}


def smallest_counts(groups: Sequence[Group], widths: Widths) -> dict[str, int]:
    """The fewest units that each group keeps, by its name."""
    return {group.name: widths.smallest(group) for group in groups}


def fault_of_widths(
    limits: Limits, groups: Sequence[Group], model: MacsModel, widths: Widths
) -> str:
    """Why no allocator can keep within `limits`; empty where one may."""
    costs = model.over(groups)
    smallest = costs.at(smallest_counts(groups, widths))
    return _beyond_reach(limits, smallest, costs.at({g.name: g.size for g in groups}), widths)


def largest_counts_within(
    limits: Limits,
    allocator: Allocator,
    candidates: Sequence[Candidate],
    model: MacsModel,
    widths: Widths,
) -> dict[str, int]:
    """Units that each group keeps in the largest network on the allocator's path within `limits`.

    Bisects the knob; where the last step moves many units at once, as many of them as fit
    stay, and then of any group: one multiple more of any is over a limit. Between the steps of a
    staircase, which are large, widths are traded as well.
    Raises StageError when even the smallest network is over one.
    """
    groups = [candidate.group for candidate in candidates]
    costs = model.over(groups)
    whole = {group.name: group.size for group in groups}

    def at(knob: float) -> dict[str, int]:
        return counts_at_knob(knob, allocator, candidates, widths)

    fault = _beyond_reach(limits, costs.at(at(1.0)), costs.at(whole), widths)
    if fault:
        raise StageError(fault)
    low, high = 0.0, 1.0
    for _ in range(KNOB_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if limits.allow(costs.at(at(middle))) else (middle, high)
    counts, larger = at(high), at(low)

    def allowed(more: Counts) -> bool:
        return limits.allow(costs.at(more))

    for ceiling in (larger, whole):
        counts = _filled_up(counts, ceiling, groups, widths, allowed)
    losses = allocator.losses(candidates) if widths.staircases else None
    if losses is None:
        return counts
    names = [group.name for group in groups]
    return exchanged(counts, widths.staircases, dict(zip(names, losses, strict=True)), allowed)


def _beyond_reach(limits: Limits, smallest: Cost, dense: Cost, widths: Widths) -> str:
    """Why even the smallest network is over a limit; empty where it is not."""
    macs, parameters = limits.largest()
    for unit, most, least, whole in (
        ("MACs", macs, smallest.macs, dense.macs),
        ("parameters", parameters, smallest.parameters, dense.parameters),
    ):
        if least > most:
            return (
                f"at most {most / 1e6:.2f} M {unit} asked, {most / whole:.3f} of dense, but "
                f"a floor of {widths.floor} channels and multiples of {widths.multiple} reaches no "
                f"less than {least / whole:.3f} of dense; set a smaller prune.multiple or "
                "prune.floor (of Widths in a program), or a larger target"
            )
    if limits.time is not None and smallest.time > limits.time:
        return (
            f"at most {limits.time:.3f} of the dense network's time asked, but by the times of its "
            f"layers a floor of {widths.floor} channels reaches no less than {smallest.time:.3f}; "
            "set a smaller prune.floor, or a larger limit"
        )
    return ""


def _filled_up(
    counts: Counts,
    ceiling: Counts,
    groups: Sequence[Group],
    widths: Widths,
    allowed: Callable[[Counts], bool],
) -> dict[str, int]:
    """One step more of each group in turn, up to `ceiling`, as long as any is allowed."""
    filled = dict(counts)
    grown = True
    while grown:
        grown = False
        for group in groups:
            name = group.name
            more = min(widths.wider(group, filled[name]), ceiling[name])
            if more > filled[name] and allowed({**filled, name: more}):
                filled[name], grown = more, True
    return filled


def _shape(layer: nn.Module) -> tuple[int, int, int]:
    kind = filter_bank(layer)
    return kind.channels("out"), kind.channels("in") // kind.groups, kind.kernel_positions


def _weights(layers: Mapping[str, nn.Module], group: Group) -> FloatArray:
    """Absolute weights of the layers that write the group's channels, sorted upwards."""
    writers = dict.fromkeys(member.layer for member in group.members if member.side == "out")
    parts = [
        kind.weight.detach().cpu().float().abs().numpy().ravel()
        for name in writers
        if isinstance(kind := kind_of(layers[name]), FilterBank)
    ]
    return np.sort(np.concatenate(parts))
