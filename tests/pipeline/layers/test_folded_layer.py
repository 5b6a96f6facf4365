"""A layer with its batch norm folded in: what is written into it is what it computes."""

from collections.abc import Callable, Mapping

import pytest
import torch
from layer_sites import site_of
from torch import nn

from pipeline.layers.folded_layer import Folded
from pipeline.layers.sampled_rows import input_rows, output_rows

CONV = nn.Conv2d
FOLDED: Mapping[str, Callable[[], tuple[nn.Module, nn.Module | None]]] = {
    "bias": lambda: (CONV(4, 6, 3), None),
    "no bias": lambda: (CONV(4, 6, 3, bias=False), None),
    "norm": lambda: (CONV(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
    "norm and bias": lambda: (CONV(4, 6, 3), nn.BatchNorm2d(6)),
    "groups and norm": lambda: (CONV(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_written_into_a_layer_is_the_map_that_was_asked(name: str) -> None:
    torch.manual_seed(0)
    layer, norm = FOLDED[name]()
    if norm is not None:
        nn.init.uniform_(norm.get_parameter("weight"), -1.5, 1.5)
        with torch.no_grad():
            norm.get_parameter("weight")[0] = 0.0  # a channel that training has switched off
        nn.init.normal_(norm.get_buffer("running_mean"))
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2.0)
    whole = nn.Sequential(layer, norm or nn.Identity()).eval()
    folded = Folded(layer, norm)
    assert folded.shifts() == (name != "no bias")
    inputs = torch.randn(50, 4, 5, 5)
    chosen = torch.arange(9).repeat(50, 1)
    rows = input_rows(site_of(layer, inputs), layer, inputs, chosen)
    with torch.no_grad():
        read = (rows @ folded.weight().transpose(1, 2)).transpose(0, 1).flatten(1)
        own = output_rows(layer, whole(inputs), chosen)
        torch.testing.assert_close(read + folded.affine()[1], own, rtol=1e-4, atol=1e-4)
        weight = torch.randn_like(folded.weight())
        bias = torch.randn(6) if folded.shifts() else torch.zeros(6)
        folded.write(weight, bias, rows)
        wanted = (rows @ weight.transpose(1, 2)).transpose(0, 1).flatten(1) + bias
        found = output_rows(layer, whole(inputs), chosen)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(folded.weight(), weight, rtol=1e-3, atol=1e-4)
        trains = output_rows(layer, whole.train()(inputs), chosen)
    torch.testing.assert_close(trains, wanted, rtol=1e-2, atol=1e-2)
