"""Second moments of what each consumer of a group reads: they tell which channels can be spared."""

from collections.abc import Callable, Iterator, Mapping, Sequence

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
from pipeline.scoring.shrinkage import chance_share, shrunk, squared_moments

RIDGE = 1e-3
"""Times the diagonal: what the second moments are steadied with before they are inverted."""


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
    for part in progress("batches for second moments", parts, len(parts)):
        places = {name: found[part] for name, found in chosen.items()}
        recorder = RowRecorder(layers, sites, places)
        handles = [layers[n].register_forward_pre_hook(moments[n].hook(places[n])) for n in names]
        try:
            with torch.no_grad(), tracking(layers, names, norms, recorder):
                network(inputs[part].clone())
        finally:
            for handle in handles:
                handle.remove()
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
        self._count = self._samples = 0
        self._shift: Tensor | None = None
        self._sums: Tensor | None = None
        self._products: Tensor | None = None
        self._squares = torch.zeros(())
        self._output_sums = self._output_squares = torch.zeros(())

    def hook(self, places: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = input_rows(self._site, self._layer, args[0], places)
            if self._shift is None:
                self._shift = rows.mean(1, keepdim=True)
            rows = rows - self._shift  # nearly centred, so that little is lost in single precision
            products = (rows.transpose(1, 2) @ rows).double()
            sums = rows.sum(1).double()
            self._count += rows.shape[1]
            self._samples += len(places)
            self._squares = self._squares + squared_moments(rows, len(places))
            self._products = products if self._products is None else self._products + products
            self._sums = sums if self._sums is None else self._sums + sums

        return add

    def outputs(self, rows: Tensor) -> None:
        self._output_sums = self._output_sums + rows.double().sum(0)
        self._output_squares = self._output_squares + rows.double().square().sum(0)

    def consumers(self, member: Member, layer: Folded) -> Iterator[Consumer]:
        """The layer as a linear map, one for each of its groups."""
        assert self._products is not None
        assert self._sums is not None
        mean = self._sums / self._count
        shifted = self._products / self._count
        chance = chance_share(shifted, self._squares / self._samples, self._samples)
        moments = shrunk(shifted - mean[:, :, None] * mean[:, None], chance)
        output = self._output_sums / self._count
        variance = float((self._output_squares / self._count - output.square()).sum())
        weight = layer.weight().double().transpose(1, 2)
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


def _readers(group: Group, sites: Mapping[str, Site]) -> list[Member]:
    """The members that read the group; none if one of them is no layer with a site."""
    found = [member for member in group.members if member.side == "in"]
    return found if all(member.layer in sites for member in found) else []
