"""Second moments of what each consumer of a group reads: they tell which channels can be spared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.data.progress import progress
from pipeline.layers.folded_layer import Folded, folded
from pipeline.layers.output_sites import Site, find_sites, norms_of
from pipeline.layers.output_tracker import tracking
from pipeline.layers.row_recorder import RowRecorder
from pipeline.layers.sampled_rows import input_rows, positions
from pipeline.network.groups import Group, Member
from pipeline.network.layer_kinds import linear_map
from pipeline.network.spool import Samples
from pipeline.network.walks import parts_of
from pipeline.scoring.elimination import Consumer, Elimination, eliminate
from pipeline.scoring.shrinkage import chance_square, shrink, squared_moments
from profiles.errors import lack_of_memory_refused

RIDGE = 1e-3
"""Times the diagonal: what the second moments are steadied with before they are inverted."""
MEAN_SAMPLES = 64
"""Samples that tell what the rows are nearly centred by."""

_PreHook = Callable[[nn.Module, tuple[Tensor, ...]], None]


@lack_of_memory_refused("ranking channels")
def eliminations(
    network: nn.Module, groups: Sequence[Group], inputs: Samples, rows: int
) -> dict[str, Elimination]:
    """The order in which each group's units can best be spared, by the group's name.

    From about `rows` positions of every layer that reads a group, on `inputs` [samples, ...].
    A group that is read by anything but convolutions and linear layers that run once has none.
    """
    layers = dict(network.named_modules())
    sites = find_sites(network, inputs[:1])
    readers = {group.name: _readers(group, sites) for group in groups}
    groups = [group for group in groups if readers[group.name]]
    names = dict.fromkeys(member.layer for found in readers.values() for member in found)
    chosen = {name: positions(sites[name], layers[name], len(inputs), rows) for name in names}
    norms = norms_of(sites[name] for name in names)
    moments = {name: _Moments(sites[name], layers[name]) for name in names}
    parts = parts_of(network, inputs)
    for part in parts[: 1 + sum(part.stop < MEAN_SAMPLES for part in parts)]:
        with _hooked({layers[n]: moments[n].near(chosen[n][part]) for n in names}):
            network(inputs[part].clone())
    for part in progress("batches for second moments", parts, len(parts)):
        places = {name: found[part] for name, found in chosen.items()}
        recorder = RowRecorder(layers, sites, places)
        hooks = {layers[name]: moments[name].add(places[name]) for name in names}
        with _hooked(hooks), tracking(layers, names, norms, recorder):
            network(inputs[part].clone())
        for name in names:
            moments[name].outputs(recorder.rows[name])
    found = {}
    for group in progress("groups ranked", groups, len(groups)):
        maps = [
            one
            for member in readers[group.name]
            for one in moments[member.layer].consumers(member, folded(layers, sites[member.layer]))
        ]
        found[group.name] = eliminate(maps, RIDGE)
    return found


class _Moments:
    """Sums over the rows of one layer's inputs, and of its outputs."""

    def __init__(self, site: Site, layer: nn.Module) -> None:
        self._site, self._layer = site, layer
        self._count = self._samples = self._near_count = 0
        self._near = self._sums = self._products = self._squares = torch.zeros(())
        self._output_sums = self._output_squares = torch.zeros(())

    def near(self, places: Tensor) -> _PreHook:
        """Of some of the samples, before `add`: what all rows are nearly centred by."""

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = input_rows(self._site, self._layer, args[0], places)
            self._near_count += rows.shape[1]
            self._near = self._near + rows.sum(1, keepdim=True)

        return hook

    def add(self, places: Tensor) -> _PreHook:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = input_rows(self._site, self._layer, args[0], places)
            # Nearly centred, little is lost in single precision, and the mean is not taken for
            # what samples differ in.
            rows = rows - self._near / self._near_count
            self._count += rows.shape[1]
            self._samples += len(places)
            self._squares = self._squares + squared_moments(rows, len(places))
            self._products = self._products + (rows.transpose(1, 2) @ rows).double()
            self._sums = self._sums + rows.sum(1).double()

        return hook

    def outputs(self, rows: Tensor) -> None:
        self._output_sums = self._output_sums + rows.double().sum(0)
        self._output_squares = self._output_squares + rows.double().square().sum(0)

    def consumers(self, member: Member, layer: Folded) -> Iterator[Consumer]:
        """The layer as a linear map, one for each of its groups."""
        mean = self._sums / self._count
        moments = self._products / self._count
        chance = chance_square(moments, self._squares / self._samples, self._samples)
        moments = moments - mean[:, :, None] * mean[:, None]
        output = self._output_sums / self._count
        variance = float((self._output_squares / self._count - output.square()).sum())
        weight = layer.weight().double().transpose(1, 2)
        seen = _variance(moments, weight)
        shrink(moments, chance)
        if seen > 0:  # so that losing all of it counts as it was seen
            variance *= _variance(moments, weight) / seen
        kind = linear_map(self._layer)
        width = kind.channels("in") // kind.groups
        for number in range(len(moments)):
            mine = member.channels // width == number
            kernel = moments.shape[1] // width
            first = torch.from_numpy(member.channels[mine] % width)
            order = torch.from_numpy(member.units[mine]).argsort(stable=True)
            columns = first[order][:, None] + torch.arange(kernel) * width
            units = columns.reshape(int(member.units.max()) + 1, -1).to(weight.device)
            yield Consumer(moments[number], weight[number], units, max(variance, 1e-12))


def _variance(moments: Tensor, weight: Tensor) -> float:
    """Of the outputs [groups, outputs] of `weight` [groups, columns, outputs], over all of them."""
    return float(((moments @ weight) * weight).sum())


@contextmanager
def _hooked(hooks: Mapping[nn.Module, _PreHook]) -> Iterator[None]:
    """Without gradients, each layer tells its hook what it is about to read."""
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in hooks.items()]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _readers(group: Group, sites: Mapping[str, Site]) -> list[Member]:
    """The members that read the group; none if one of them is no layer with a site."""
    found = [member for member in group.members if member.side == "in"]
    return found if all(member.layer in sites for member in found) else []
