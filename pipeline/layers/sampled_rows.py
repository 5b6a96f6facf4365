"""A layer as a linear map: rows of its inputs and outputs at sampled positions."""

import itertools
import math
import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.output_sites import Site
from pipeline.network.plan import CONVOLUTIONS

LARGEST = 64_000_000
"""Numbers in one layer's input rows: 256 MiB in single precision."""
CHUNK_SAMPLES = 64


def positions(site: Site, layer: nn.Module, samples: int, rows: int) -> Tensor:
    """Flat output positions, [samples, n], n >= 1: about `rows` in all, the same at every call.

    One in each of n equal parts, so that none comes twice.
    Fewer where a layer's input rows would not fit into LARGEST numbers.
    """
    places = math.prod(site.places)
    groups, _, width = columns(layer, layer.get_parameter("weight")).shape
    wanted = max(1, min(rows, LARGEST // (groups * width)) // samples)
    wanted = min(wanted, places)
    generator = torch.Generator().manual_seed(zlib.crc32(site.layer.encode()))
    within = torch.rand(samples, wanted, generator=generator, dtype=torch.float64)
    edges = torch.arange(wanted + 1) * places // wanted
    return edges[:-1] + (within * edges.diff()).long()


def output_rows(layer: nn.Module, outputs: Tensor, chosen: Tensor) -> Tensor:
    """Rows [samples * n, channels] of an output, or of anything of its shape."""
    places = chosen.to(outputs.device)
    if isinstance(layer, nn.Linear):
        tokens = outputs.reshape(len(outputs), -1, outputs.shape[-1])
        return _taken(tokens, places)
    return _taken(outputs.flatten(2).transpose(1, 2), places)


def input_rows(site: Site, layer: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
    """Rows [groups, samples * n, columns]: what each output position reads.

    Columns are in the order of `columns`.
    """
    if isinstance(layer, nn.Linear):
        return output_rows(layer, inputs, chosen)[None]
    pairs = zip(inputs.split(CHUNK_SAMPLES), chosen.split(CHUNK_SAMPLES), strict=True)
    return torch.cat([_patches(site, layer, part, places) for part, places in pairs], 1)


def _patches(site: Site, layer: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
    assert isinstance(layer, CONVOLUTIONS)
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, padding, mode=mode) if any(padding) else inputs
    flat = padded.flatten(2).transpose(1, 2).contiguous()
    starts = torch.unravel_index(chosen, site.places)
    taken = []
    for offset in itertools.product(*map(range, layer.kernel_size)):
        place = torch.zeros_like(chosen)
        axes = zip(starts, layer.stride, offset, layer.dilation, padded.shape[2:], strict=True)
        for start, stride, step, dilation, size in axes:
            place = place * size + start * stride + step * dilation
        taken.append(_taken(flat, place.to(flat.device)))
    rows = torch.stack(taken, 1)  # [rows, kernel, channels]
    split = rows.reshape(*rows.shape[:2], layer.groups, -1)
    return split.permute(2, 0, 1, 3).reshape(layer.groups, len(rows), -1)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """The rows [samples * n, channels] of [samples, positions, channels] at `places`."""
    samples = torch.arange(len(places), device=values.device)[:, None]
    return values[samples, places].flatten(0, 1)


def columns(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight of the layer as [groups, outputs / groups, kernel * inputs / groups]."""
    if isinstance(layer, nn.Linear):
        return weight[None]
    assert isinstance(layer, CONVOLUTIONS)
    grouped = weight.reshape(layer.groups, -1, weight.shape[1], weight[0, 0].numel())
    return grouped.transpose(2, 3).flatten(2)


def weight_of(layer: nn.Module, values: Tensor) -> Tensor:
    """The weight that `columns` gives as `values`."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Linear):
        return values[0]
    grouped = values.reshape(*values.shape[:2], -1, weight.shape[1])
    return grouped.transpose(2, 3).reshape(weight.shape)
