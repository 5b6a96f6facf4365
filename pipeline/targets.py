"""Rows of the dense network's outputs: what a pruned one has to reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.rows import output_rows, positions
from pipeline.sites import Follow, Site, find_sites, following, norms_of

DENSE_SAMPLES = 128
"""Samples that run through the dense network at a time."""


@dataclass(frozen=True)
class Targets:
    """Rows of the dense network's outputs, each where it counts."""

    sites: Mapping[str, Site]
    chosen: Mapping[str, Tensor]
    """[samples, n]: the positions of the rows, by layer."""
    rows: Mapping[str, Tensor]
    """[samples * n, outputs], by layer."""


def targets_of(network: nn.Module, inputs: Tensor, rows: int) -> Targets:
    """About `rows` rows of every layer's output on `inputs`, by the layer's name."""
    layers = dict(network.named_modules())
    sites = find_sites(network, inputs[:1])
    chosen = {
        name: positions(site, layers[name], len(inputs), rows) for name, site in sites.items()
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in sites}
    for start in range(0, len(inputs), DENSE_SAMPLES):
        part = slice(start, start + DENSE_SAMPLES)
        record = Record(layers, sites, {name: places[part] for name, places in chosen.items()})
        with torch.no_grad(), following(network, sites, norms_of(sites.values()), record):
            network(inputs[part])
        for name, found in record.rows.items():
            parts[name].append(found)
    return Targets(
        sites, chosen, {name: torch.cat(found) for name, found in parts.items() if found}
    )


class Record(Follow):
    """Rows of every layer's output: of the sum where it joins one, else behind its batch norm."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sites: Mapping[str, Site],
        chosen: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self._layers, self._sites, self._chosen = layers, sites, chosen
        self.rows: dict[str, Tensor] = {}

    def own(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        super().own(layers, value, summed)
        if not summed and not self._sites[layers[0]].joins:
            self._keep(layers[0], value)

    def added(self, layers: Sequence[str], result: Tensor) -> None:
        for layer in layers:
            if self._sites[layer].joins:
                self._keep(layer, result)

    def _keep(self, layer: str, value: Tensor) -> None:
        self.rows[layer] = output_rows(self._layers[layer], value, self._chosen[layer])
