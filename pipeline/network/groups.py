"""Coupled channels: what must be removed together, by Torch-Pruning's dependency graph.

A group counts only when removing its channels computes the same as nobody listening to them:
every group is tried on the network itself before anything is pruned. A network that cannot be
traced as a whole, such as one that shuffles channels, is traced in parts.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.arrays import IntArray
from pipeline.network.layer_kinds import FILTER_BANKS, Side, kind_of
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan, channels_of, masked
from pipeline.network.proof_inputs import is_constant, with_noise
from profiles.errors import StageError

if TYPE_CHECKING:
    import torch_pruning

IndexMapping = Callable[[Sequence[object]], Sequence[object]]
MOST_INDICES = 200_000
"""Of values of one layer that are followed into the next; VGG's first linear layer has 25,088."""
IS_OUTPUT = "its channels are the network's output"
"""Why one group of every network may not be pruned."""
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

    def unit_multiple(self, channel_multiple: int) -> int:
        """The number of units whose channels are a multiple of `channel_multiple`."""
        width = self.channels // self.size
        return channel_multiple // math.gcd(channel_multiple, width)


@dataclass(frozen=True)
class Groups:
    """The groups that may be pruned, in the network's order, and why the others may not."""

    groups: tuple[Group, ...]
    refused: Mapping[str, str]


def find_groups(network: nn.Module, example: Tensor) -> Groups:
    """Every group of `network` that is proven prunable on `example` [n, ...] and on noise.

    The first sample traces it. Its outputs are never in a group: without them they change shape.
    Raises StageError when the network cannot be traced.
    """
    network = copy.deepcopy(network).eval()
    refused: dict[str, str] = {}
    taken: set[tuple[str, Side, int]] = set()
    candidates = []
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    traced = _with_slopes_as_constants(network)
    for group in sorted(_traced(traced, example[:1], refused), key=lambda g: order[g.name]):
        claimed = {
            (member.layer, member.side, int(channel))
            for member in group.members
            for channel in member.channels
        }
        if claimed & taken:
            refused[group.name] = "shares channels with another group"
        elif group.size > 1:
            taken |= claimed
            candidates.append(group)
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


def _trial(network: nn.Module, plan: PruningPlan, example: Tensor) -> tuple[str, bool]:
    """As `fault`, and whether that proves anything: whether the masked network's answers vary."""
    samples, noise = with_noise(example)
    silent, answers = masked(network, plan), []
    for inputs in (samples, noise):
        with torch.no_grad():
            try:
                small = apply_plan(network, plan)(inputs)
            except Exception as error:  # whatever the network's own code raises on smaller layers
                reason = f"the network does not run without these channels: {_first_line(error)}"
                return reason, True
            large = silent(inputs)
        if small.shape != large.shape:
            return IS_OUTPUT, True
        if inputs is noise and not bool(large.isfinite().all()):
            continue  # the network has no answer to it
        difference = float((small - large).abs().max()) / max(1e-6, float(large.abs().max()))
        if not difference <= TOLERANCE:
            reason = f"removing differs from masking by {difference:.1e}: channels mix elsewhere"
            return reason, True
        answers.append(large)
    return "", not is_constant(torch.cat(answers))


def _proven(
    network: nn.Module, groups: Sequence[Group], example: Tensor, refused: dict[str, str]
) -> list[Group]:
    """The groups that stand the trial, by bisection: one trial when all of them do."""
    if not groups:
        return []
    generator = np.random.default_rng(0)
    halves = {g.name: generator.permutation(g.size)[: max(1, g.size // 2)] for g in groups}
    reason, proves = _trial(network, make_plan(network, groups, halves), example)
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


class _OneSlope(nn.Module):
    """A PReLU with one slope for all channels, as an element-wise function to Torch-Pruning."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, values: Tensor) -> Tensor:
        return functional.prelu(values, self.get_buffer("weight"))


def _with_slopes_as_constants(network: nn.Module) -> nn.Module:
    """A copy in which one slope for all channels is no parameter, so that it couples nothing.

    To Torch-Pruning a PReLU is a layer: all layers whose outputs it reads would be one group.
    """
    traced = copy.deepcopy(network)
    for name, layer in list(traced.named_modules(remove_duplicate=False)):
        if name and type(layer) is nn.PReLU and layer.num_parameters == 1:
            traced.set_submodule(name, _OneSlope(layer.weight.detach()))
    return traced


def _traced(network: nn.Module, example: Tensor, refused: dict[str, str]) -> Iterator[Group]:
    layers = dict(network.named_modules())
    names = {module: name for name, module in layers.items()}
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # Torch-Pruning follows autograd's graph
    try:
        found = _coupled(network, example)
    except Exception as error:  # Torch-Pruning's own failures have no common class
        found = _coupled_in_parts(network, _inputs_of(network, example))
        if not found:
            raise StageError(f"the network cannot be traced: {_first_line(error)}") from error
    for group in found:
        root = group[0].dep.target.module
        members = []
        strangers = []
        for item in group:
            module = item.dep.target.module
            kind = kind_of(module) if module in names else None
            if kind is not None:
                reads = item.dep.handler.__name__ == "prune_in_channels"
                side: Side = "in" if reads and not kind.one_sided else "out"
                channels, units = np.asarray(item.idxs), np.asarray(item.root_idxs)
                members.append(Member(names[module], side, channels, units))
            elif module in names or isinstance(module, nn.Parameter):
                strangers.append(type(module).__name__)
        writers = {
            m.layer
            for m in members
            if m.side == "out" and isinstance(layers[m.layer], FILTER_BANKS)
        }
        name = next(name for name in layers if name in writers)
        torn = _torn_layer(members, layers)
        if strangers:
            refused[name] = f"a {strangers[0]} takes part, whose channels cannot be removed"
        elif torn:
            refused[name] = f"{torn} ties its channels to those of another group"
        else:
            yield _with_units(name, channels_of(root, "out"), members, layers)


def _coupled(
    module: nn.Module, example: Tensor, seams: Sequence[nn.Module] = ()
) -> list["torch_pruning.Group"]:
    """Torch-Pruning's groups outside of the parts `seams`; raises whatever that raises."""
    import torch_pruning  # seconds to import, and not needed where the plan is in the store

    ends: list[Tensor] = []

    def end(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ends.extend(given for given in args if given.grad_fn is not None)
        return output.detach()

    graph = torch_pruning.DependencyGraph()
    handles = [seam.register_forward_hook(end) for seam in seams]
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                module,
                example,
                forward_fn=lambda whole, given: whole(given),  # else first without its batch
                output_transform=lambda output: [output, *ends],
                verbose=False,
            )
            for node in graph.module2node.values():
                for dependency in node.dependencies:
                    dependency.index_mapping = _Bounded(dependency.index_mapping)
            return list(graph.get_all_groups(root_module_types=FILTER_BANKS))
    finally:
        for handle in handles:
            handle.remove()


class _Bounded(list["IndexMapping | None"]):
    """Torch-Pruning's maps of indices from layer to layer, stopped before they fill the memory.

    Where windows are cut out of a picture and put back, as in Swin, it maps round and round, and
    each round has many times the indices of the one before.
    """

    def __iter__(self) -> "Iterator[IndexMapping | None]":
        for mapping in super().__iter__():
            yield mapping and partial(_mapped, mapping)


def _mapped(mapping: "IndexMapping", indices: Sequence[object]) -> Sequence[object]:
    stride = 1 if getattr(mapping, "reverse", False) else getattr(mapping, "_stride", 1)
    if len(indices) * stride > MOST_INDICES:
        raise StageError("its channels cannot be followed through its reshapes")
    return mapping(indices)


def _coupled_in_parts(
    module: nn.Module, inputs: Mapping[nn.Module, Tensor]
) -> list["torch_pruning.Group"]:
    """The groups of a module that cannot be traced: those in its parts and those around them.

    Some reach out of what was traced: the trial on the whole network refuses these.
    """
    found: list[torch_pruning.Group] = []
    whole: list[torch_pruning.Group] = []
    seams = []
    for part in module.children():
        inside = [inner for inner in part.modules() if inner is not part]
        if not any(isinstance(inner, FILTER_BANKS) for inner in inside):
            continue
        try:
            whole += _coupled(part, inputs[part])
        except Exception:  # Torch-Pruning's, and KeyError of a part that no tensor is given to
            seams.append(part)
            found += _coupled_in_parts(part, inputs)
    try:
        return found + _coupled(module, inputs[module], seams) if seams else found + whole
    except Exception:  # the module's own code is at fault as well
        return found + whole


def _inputs_of(network: nn.Module, example: Tensor) -> dict[nn.Module, Tensor]:
    """What every module that takes one tensor is given, the first time."""
    inputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[object, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor):
            inputs.setdefault(module, args[0].clone())  # the next module may work in place

    handles = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _torn_layer(members: Sequence[Member], layers: Mapping[str, nn.Module]) -> str:
    """The first layer that ties channels of these members to others; empty without one.

    The trial could miss it, for other units of the group may be free to go.
    """
    held: dict[tuple[str, Side], list[IntArray]] = {}
    for member in members:
        held.setdefault((member.layer, member.side), []).append(member.channels)
    for (name, side), channels in held.items():
        kind = kind_of(layers[name])
        labels = kind.tied_channels(side) if kind else None
        if labels is None:
            continue
        inside = np.isin(np.arange(len(labels)), np.concatenate(channels))
        if np.isin(labels[~inside], labels[inside]).any():
            return name
    return ""


def _with_units(
    name: str, channels: int, members: list[Member], layers: Mapping[str, nn.Module]
) -> Group:
    """Join the root's channels that a layer ties together, such as a grouped convolution."""
    unit_of = np.arange(channels)
    for member in members:
        kind = kind_of(layers[member.layer])
        labels = kind.tied_channels(member.side) if kind else None
        if labels is None:
            continue
        for label in np.unique(labels):
            together = unit_of[member.units[labels[member.channels] == label]]
            if len(together):
                unit_of[np.isin(unit_of, together)] = together.min()
    names, dense = np.unique(unit_of, return_inverse=True)
    joined = tuple(Member(m.layer, m.side, m.channels, dense[m.units]) for m in members)
    return Group(name, len(names), channels, joined)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
