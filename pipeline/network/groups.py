"""Coupled channels: what must be removed together, by following them through a forward pass.

A group counts only when removing its channels computes the same as nobody listening to them:
every group is tried on the network itself before anything is pruned.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import IntArray
from pipeline.network.channel_tracer import IS_OUTPUT, TracedChannels, trace_channels
from pipeline.network.layer_kinds import FILTER_BANKS, FilterBank, Side, kind_of
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan, channels_of, masked
from pipeline.network.proof_inputs import is_constant, with_noise
from profiles.errors import StageError, lack_of_memory_refused, lacks_memory

TOLERANCE = 1e-4
"""Largest difference between removed and masked, relative to the largest output."""


@dataclass(frozen=True)
class Member:
    """The channels of one side of one layer, and the unit of the group each belongs to."""

    layer: str
    side: Side
    channels: IntArray
    units: IntArray


@dataclass(frozen=True)
class Group:
    """`size` units, each removed whole from every member, or kept.

    A unit is one channel, but in grouped convolutions the same place of every group.
    """

    name: str
    """The first layer, in the network's order, that writes these channels."""
    size: int
    channels: int
    members: tuple[Member, ...]
    conv_groups: int = 1
    """The groups of the convolution among its members that has the most."""

    def unit_multiple(self, channel_multiple: int) -> int:
        """The number of units whose channels are a multiple of `channel_multiple`.

        Of a grouped convolution the channels of one of its groups: each is computed by itself.
        """
        width = max(1, self.channels // self.size // self.conv_groups)
        return channel_multiple // math.gcd(channel_multiple, width)


@dataclass(frozen=True)
class Groups:
    """The groups that may be pruned, in the network's order, and why the others may not."""

    groups: tuple[Group, ...]
    refused: Mapping[str, str]


def find_groups(network: nn.Module, example: Tensor) -> Groups:
    """Every group of `network` that is proven prunable on `example` [n, ...] and on noise.

    The first sample is followed. Outputs are never in a group: without them they change shape.
    Raises StageError when the network cannot be traced.
    """
    network = copy.deepcopy(network).eval()
    layers = dict(network.named_modules())
    traced = _traced(network, example[:1])
    refused: dict[str, str] = {}
    candidates = []
    for writers in _joined(layers, traced):
        group, reason = _group(layers, writers, traced)
        if reason:
            refused[group.name] = reason
        elif group.size > 1:
            candidates.append(group)
    order = {name: place for place, name in enumerate(layers)}
    candidates.sort(key=lambda group: order[group.name])
    return Groups(tuple(_proven(network, candidates, example, refused)), refused)


def make_plan(
    network: nn.Module, groups: Sequence[Group], kept_units: Mapping[str, IntArray]
) -> PruningPlan:
    """The plan that keeps the given units of each group, by the group's name."""
    layers = dict(network.named_modules())
    removed: dict[tuple[str, Side], set[int]] = {}
    for group in groups:
        gone = np.setdiff1d(np.arange(group.size), kept_units[group.name])
        for member in group.members:
            channels = member.channels[np.isin(member.units, gone)]
            removed.setdefault((member.layer, member.side), set()).update(channels.tolist())

    def kept(name: str, side: Side) -> Kept | None:
        gone = removed.get((name, side))
        if not gone:
            return None
        total = channels_of(layers[name], side)
        return Kept(of=total, channels=tuple(i for i in range(total) if i not in gone))

    names = dict.fromkeys(name for name, _ in removed)
    plans = {name: LayerPlan(out=kept(name, "out"), inputs=kept(name, "in")) for name in names}
    return PruningPlan(layers={n: p for n, p in plans.items() if p.out or p.inputs})


def fault(network: nn.Module, plan: PruningPlan, example: Tensor) -> str:
    """Why removing the plan's channels is not the same as masking them; empty when it is.

    On the samples `example` [n, ...] and on noise like them.
    """
    return _trial(network, plan, example)[0]


@lack_of_memory_refused("proving which channels can be removed")
def _trial(network: nn.Module, plan: PruningPlan, example: Tensor) -> tuple[str, bool]:
    """As `fault`, and whether that proves anything: whether the masked network's answers vary."""
    batches = with_noise(example)
    try:
        small = _answers(apply_plan(network, plan), batches)
    except Exception as error:  # whatever the network's own code raises on smaller layers
        if lacks_memory(error):
            raise
        return f"the network does not run without these channels: {_first_line(error)}", True
    large = _answers(masked(network, plan), batches)
    if [one.shape for one in small] != [one.shape for one in large]:
        return IS_OUTPUT, True
    difference = _difference(small, large)
    if TOLERANCE < difference < math.inf:
        difference = _difference_in_float64(network, plan, batches, difference)
    if not difference <= TOLERANCE:
        return f"removing differs from masking by {difference:.1e}: channels mix elsewhere", True
    answered = [answers for answers in large if bool(answers.isfinite().all())]
    return "", not is_constant(torch.cat(answered))


def _answers(network: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [network(batch) for batch in batches]


def _difference(small: Sequence[Tensor], large: Sequence[Tensor]) -> float:
    """The largest on the samples and on noise, which a network may have no finite answer to."""
    samples, noise = zip(small, large, strict=True)
    pairs = (samples, noise) if bool(noise[1].isfinite().all()) else (samples,)
    differences = [
        float((one - other).abs().max()) / max(1e-6, float(other.abs().max()))
        for one, other in pairs
    ]
    return float(np.max(differences))  # NaN where one of them is


def _difference_in_float64(
    network: nn.Module, plan: PruningPlan, batches: Sequence[Tensor], known: float
) -> float:
    """The same without the rounding that a deep network may blow up to any size, on noise above
    all: removing sums in another order than masking. `known` where it only computes in float32.
    """
    wider = [batch.double() for batch in batches]
    try:
        small = _answers(apply_plan(network, plan).double(), wider)
        return _difference(small, _answers(masked(network, plan).double(), wider))
    except Exception as error:  # whatever the network's own code raises on another type
        if lacks_memory(error):
            raise
        return known


def _proven(
    network: nn.Module, groups: Sequence[Group], example: Tensor, refused: dict[str, str]
) -> list[Group]:
    """The groups that stand the trial, by bisection: one trial when all of them do."""
    if not groups:
        return []
    generator = np.random.default_rng(0)
    orders = {g.name: generator.permutation(g.size) for g in groups}
    reason, proves = "", False
    for part in (slice(None, None, 2), slice(1, None, 2)):  # every unit is gone once
        kept = {name: order[part] for name, order in orders.items()}
        reason, one_proves = _trial(network, make_plan(network, groups, kept), example)
        proves |= one_proves
        if reason:
            break
    if not reason and not proves:
        reason = "without these channels the network answers all inputs alike: that proves nothing"
    if not reason:
        return list(groups)
    if len(groups) == 1:
        refused[groups[0].name] = reason
        return []
    middle = len(groups) // 2
    return [
        group
        for half in (groups[:middle], groups[middle:])
        for group in _proven(network, half, example, refused)
    ]


@lack_of_memory_refused("tracing the network")
def _traced(network: nn.Module, example: Tensor) -> TracedChannels:
    """On a copy: some networks keep tensors that they have computed once."""
    try:
        return trace_channels(copy.deepcopy(network), example)
    except Exception as error:  # whatever the network's own code raises
        if lacks_memory(error):
            raise
        raise StageError(f"the network cannot be traced: {_first_line(error)}") from error


def _joined(layers: Mapping[str, nn.Module], traced: TracedChannels) -> list[tuple[str, ...]]:
    """The layers that write channels of their own, together where they share a unit."""
    found: list[tuple[tuple[str, ...], set[int]]] = []
    names: tuple[str, ...]
    for name, layer in layers.items():
        kind = kind_of(layer)
        own = traced.sides.get((name, "out"))
        if own is None or kind is None or not isinstance(kind, FilterBank) or kind.one_sided:
            continue
        names, units = (name,), set(own.tolist())
        apart = [one for one in found if not one[1] & units]
        for others, shared in (one for one in found if one[1] & units):
            names, units = (*others, *names), units | shared
        found = [*apart, (names, units)]
    return [names for names, _ in found]


def _group(
    layers: Mapping[str, nn.Module], writers: Sequence[str], traced: TracedChannels
) -> tuple[Group, str]:
    """The group of all channels that these layers write, and why it must stay, if it must."""
    written = np.concatenate([traced.sides[name, "out"] for name in writers])
    units = list(dict.fromkeys(written.tolist()))
    numbers = np.full(1 + max(int(own.max()) for own in traced.sides.values()), -1)
    numbers[units] = np.arange(len(units))
    members = []
    for (name, side), own in traced.sides.items():
        channels = np.flatnonzero(numbers[own] >= 0)
        if len(channels):
            members.append(Member(name, side, channels, numbers[own[channels]]))
    order = {name: place for place, name in enumerate(layers)}
    members.sort(key=lambda member: order[member.layer])
    first = next(
        m.layer for m in members if m.side == "out" and isinstance(layers[m.layer], FILTER_BANKS)
    )
    total = channels_of(layers[first], "out")
    group = Group(first, len(units), total, tuple(members), _conv_groups(layers, members))
    return group, traced.labels.reason(units) or _unevenness(group)


def _conv_groups(layers: Mapping[str, nn.Module], members: Sequence[Member]) -> int:
    """The most groups of a convolution that is not depthwise; 1 where there is none."""
    kinds = (kind_of(layers[member.layer]) for member in members)
    banks = (kind for kind in kinds if isinstance(kind, FilterBank) and not kind.one_sided)
    return max((bank.groups for bank in banks), default=1)


def _unevenness(group: Group) -> str:
    """Why the units of a group do not count alike; empty where they do."""
    if group.size == 1:
        return "all its channels are one unit" if group.channels > 1 else ""
    for member in group.members:
        counts = np.bincount(member.units, minlength=group.size)
        if len(set(counts.tolist())) > 1:
            return f"its units have different numbers of channels in {member.layer}"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
