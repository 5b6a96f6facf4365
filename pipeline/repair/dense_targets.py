"""Rows of the dense network's outputs: what a pruned one has to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.layers.follow import following
from pipeline.layers.output_sites import Site, find_sites, norms_of
from pipeline.layers.record import DENSE_SAMPLES, Record
from pipeline.layers.sampled_rows import positions


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
