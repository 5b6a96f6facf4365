"""Rows of the dense network's outputs: what a pruned one has to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.progress import progress
from pipeline.layers.output_sites import Site, find_sites, norms_of
from pipeline.layers.output_tracker import tracking
from pipeline.layers.row_recorder import RowRecorder
from pipeline.layers.sampled_rows import positions
from pipeline.network.layer_kinds import linear_map
from pipeline.network.spool import KeptSamples, Memory, Samples
from pipeline.network.walks import parts_of

ROWS_A_COLUMN = 300
"""More rows of a layer tell nothing more of its weights: a depthwise one has nine an output."""


@dataclass(frozen=True)
class DenseTargets:
    """Rows of the dense network's outputs on some inputs, each where it counts."""

    inputs: Samples
    """[samples, ...]: what the network was given."""
    fitted: int
    """The first so many samples are to be fitted; the others judge."""
    sites: Mapping[str, Site]
    """The layers that have rows, in the order they run."""
    positions: Mapping[str, Tensor]
    """[samples, n]: the positions of the rows, by layer."""
    rows: Mapping[str, Samples]
    """[samples * n, outputs], by layer."""
    memory: Memory
    """Where the rows lie, and what else is put aside."""


def dense_targets(
    network: nn.Module, inputs: Samples, fitted: int, rows: int, memory: Memory
) -> DenseTargets:
    """About `rows` rows of every layer's output on `inputs` [samples, ...], by the layer's name.

    Fewer where so many would tell nothing more.

    `network` is in eval mode. The first `fitted` samples are to be fitted, the others judge.
    """
    layers, device = dict(network.named_modules()), inputs[:1].device
    sites = find_sites(network, inputs[:1])
    sampled = {
        name: positions(site, layers[name], len(inputs), _rows_of(site, layers[name], rows))
        for name, site in sites.items()
    }
    spool = memory.spool()
    kept = {name: KeptSamples(spool, device) for name in sites}
    parts = parts_of(network, inputs)
    for part in progress("batches through the dense network", parts, len(parts)):
        recorder = RowRecorder(layers, sites, {name: of[part] for name, of in sampled.items()})
        with torch.no_grad(), tracking(layers, sites, norms_of(sites.values()), recorder):
            network(inputs[part].clone())
        for name, found in recorder.rows.items():
            kept[name].append(found)
    whole = {name: found for name, found in kept.items() if len(found)}
    return DenseTargets(inputs, fitted, sites, sampled, whole, memory)


def _rows_of(site: Site, layer: nn.Module, rows: int) -> int:
    """The rows that a layer needs; all where a block ends, for whole blocks are fitted to them."""
    kind = linear_map(layer)
    columns = kind.matrix_of(kind.weight).shape[2]
    return rows if site.joins else min(rows, ROWS_A_COLUMN * columns)
