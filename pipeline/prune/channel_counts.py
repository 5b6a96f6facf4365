"""From a budget to the number of units every group keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from torch import nn

from pipeline.data.arrays import FloatArray
from pipeline.network.costs import WEIGHT_BYTES, Cost, Counts, GroupCosts, MacsModel
from pipeline.network.groups import Group
from pipeline.network.layer_kinds import FilterBank, filter_bank, kind_of
from pipeline.prune.allocators import Allocator, Candidate
from pipeline.scoring.collect import Float64
from profiles.errors import StageError

KNOB_STEPS = 40
"""Halvings of the knob: finer than one channel of any layer."""


@dataclass(frozen=True)
class Limits:
    """What a network may cost at most; all that are given have to hold."""

    macs: float | None = None
    parameters: float | None = None
    size: float | None = None
    """Bytes of its parameters in fp32."""

    def most(self) -> tuple[float, float]:
        """MACs and parameters, infinite where nothing limits them."""
        of_size = inf if self.size is None else self.size / WEIGHT_BYTES
        parameters = inf if self.parameters is None else self.parameters
        return inf if self.macs is None else self.macs, min(parameters, of_size)

    def hold(self, cost: Cost) -> bool:
        macs, parameters = self.most()
        return cost.macs <= macs and cost.parameters <= parameters


def candidates_of(
    network: nn.Module,
    groups: Sequence[Group],
    model: MacsModel,
    scores: Mapping[str, Float64],
    errors: Mapping[str, Float64],
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
            )
        )
    return found


def counts_at(
    allocator: Allocator,
    candidates: Sequence[Candidate],
    knob: float,
    multiple: int,
    floor: int,
    floor_ratio: float = 0.0,
) -> dict[str, int]:
    """Units kept at `knob`: the nearest multiple of `multiple` channels, or the whole group.

    Never fewer channels than `floor`, nor than `floor_ratio` of the group's; a floor of 8 and
    0.1 keeps layers from collapsing.
    """
    counts = {}
    for candidate, kept in zip(candidates, allocator.keep(candidates, knob), strict=True):
        group = candidate.group
        step = group.unit_multiple(multiple)
        wanted = group.size * kept
        rounded = int(wanted / step + 0.5) * step
        if wanted > (group.size // step * step + group.size) / 2:
            rounded = group.size
        channels = max(floor, ceil(floor_ratio * group.channels), 1)
        least = ceil(channels * group.size / group.channels / step) * step
        counts[group.name] = min(group.size, max(rounded, least))
    return counts


def counts_for(
    allocator: Allocator,
    candidates: Sequence[Candidate],
    model: MacsModel,
    limits: Limits,
    multiple: int,
    floor: int,
    floor_ratio: float = 0.0,
) -> dict[str, int]:
    """The largest network on the allocator's path within all `limits`.

    Bisects the knob; where the last step moves many units at once, as many of them as fit
    stay, and then of any group: one multiple more of any is over a limit.
    Raises StageError when even the smallest network is over one.
    """
    groups = [candidate.group for candidate in candidates]
    costs = model.over(groups)

    def at(knob: float) -> dict[str, int]:
        return counts_at(allocator, candidates, knob, multiple, floor, floor_ratio)

    low, high = 0.0, 1.0
    macs, parameters = limits.most()
    least, dense = costs.at(at(high)), costs.at({group.name: group.size for group in groups})
    for unit, most, found, whole in (
        ("MACs", macs, least.macs, dense.macs),
        ("parameters", parameters, least.parameters, dense.parameters),
    ):
        if found > most:
            raise StageError(
                f"at most {most / 1e6:.2f} M {unit} asked, but this allocator with a floor of "
                f"{floor} channels and multiples of {multiple} reaches no less than "
                f"{found / whole:.3f} of dense"
            )
    for _ in range(KNOB_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if limits.hold(costs.at(at(middle))) else (middle, high)
    counts, larger = at(high), at(low)
    for sizes in (larger, {group.name: group.size for group in groups}):
        counts = _filled(costs, limits, groups, counts, sizes, multiple)
    return counts


def _filled(
    costs: GroupCosts,
    limits: Limits,
    groups: Sequence[Group],
    counts: Counts,
    most: Counts,
    multiple: int,
) -> dict[str, int]:
    """One step more of each group in turn, up to `most`, as long as any fits."""
    filled = dict(counts)
    grown = True
    while grown:
        grown = False
        for group in groups:
            now = filled[group.name]
            more = min(now + group.unit_multiple(multiple), most[group.name])
            if more > now and limits.hold(costs.at({**filled, group.name: more})):
                filled[group.name], grown = more, True
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
