"""A layer as a linear map: rows of its inputs and outputs at sampled positions."""

import math
import zlib

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import Site
from pipeline.network.layer_kinds import linear_map

LARGEST = 64_000_000
"""Numbers in one layer's input rows: 256 MiB in single precision."""


def positions(site: Site, layer: nn.Module, samples: int, rows: int) -> Tensor:
    """Flat output positions, [samples, n], n >= 1: about `rows` in all, the same at every call.

    One in each of n equal parts, so that none comes twice.
    Fewer where a layer's input rows would not fit into LARGEST numbers.
    """
    places = math.prod(site.places)
    kind = linear_map(layer)
    groups, _, width = kind.matrix_of(kind.weight).shape
    wanted = max(1, min(rows, LARGEST // (groups * width)) // samples)
    wanted = min(wanted, places)
    generator = torch.Generator().manual_seed(zlib.crc32(site.layer.encode()))
    within = torch.rand(samples, wanted, generator=generator, dtype=torch.float64)
    edges = torch.arange(wanted + 1) * places // wanted
    return edges[:-1] + (within * edges.diff()).long()


def output_rows(layer: nn.Module, outputs: Tensor, chosen: Tensor) -> Tensor:
    """Rows [samples * n, channels] of an output, or of anything of its shape."""
    return linear_map(layer).output_rows(outputs, chosen)


def input_rows(site: Site, layer: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
    """Rows [groups, samples * n, columns]: what each output position reads.

    Columns are in the order of `LinearMap.matrix_of`.
    """
    return linear_map(layer).input_rows(inputs, site.places, chosen, site.padding)
