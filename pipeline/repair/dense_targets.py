"""Rows of the dense network's outputs: what a pruned one has to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import Site, find_sites, norms_of
from pipeline.layers.output_tracker import tracking
from pipeline.layers.row_recorder import DENSE_SAMPLES, RowRecorder
from pipeline.layers.sampled_rows import positions


@dataclass(frozen=True)
class DenseTargets:
    """Rows of the dense network's outputs on some inputs, each where it counts."""

    inputs: Tensor
    """[samples, ...]: what the network was given."""
    fitted: int
    """The first so many samples are to be fitted; the others judge."""
    sites: Mapping[str, Site]
    """The layers that have rows, in the order they run."""
    positions: Mapping[str, Tensor]
    """[samples, n]: the positions of the rows, by layer."""
    rows: Mapping[str, Tensor]
    """[samples * n, outputs], by layer."""


def dense_targets(network: nn.Module, inputs: Tensor, fitted: int, rows: int) -> DenseTargets:
    """About `rows` rows of every layer's output on `inputs` [samples, ...], by the layer's name.

    `network` is in eval mode. The first `fitted` samples are to be fitted, the others judge.
    """
    layers = dict(network.named_modules())
    sites = find_sites(network, inputs[:1])
    sampled = {
        name: positions(site, layers[name], len(inputs), rows) for name, site in sites.items()
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in sites}
    for start in range(0, len(inputs), DENSE_SAMPLES):
        part = slice(start, start + DENSE_SAMPLES)
        recorder = RowRecorder(layers, sites, {name: of[part] for name, of in sampled.items()})
        with torch.no_grad(), tracking(network, sites, norms_of(sites.values()), recorder):
            network(inputs[part])
        for name, found in recorder.rows.items():
            parts[name].append(found)
    whole = {name: torch.cat(found) for name, found in parts.items() if found}
    return DenseTargets(inputs, fitted, sites, sampled, whole)
