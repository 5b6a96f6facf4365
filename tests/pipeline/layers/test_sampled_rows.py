"""A layer's sampled rows: times its weight they are its output; where they are taken."""

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_sites import site_of
from torch import nn

from pipeline.layers import sampled_rows as rows_module
from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import input_rows, output_rows, positions
from pipeline.network.layer_kinds import linear_map

CONV = nn.Conv2d
LAYERS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1 x 1": (lambda: CONV(8, 6, 1), (8, 7, 7)),
    "stride": (lambda: CONV(8, 6, 3, stride=(2, 1), padding=1), (8, 9, 7)),
    "no padding": (lambda: CONV(8, 6, (3, 2)), (8, 7, 8)),
    "reflect": (lambda: CONV(8, 6, 5, padding=(2, 1), padding_mode="reflect"), (8, 7, 9)),
    "replicate": (lambda: CONV(8, 6, 3, padding=1, padding_mode="replicate"), (8, 7, 7)),
    "circular": (lambda: CONV(8, 6, 3, padding=1, padding_mode="circular"), (8, 7, 7)),
    "same": (lambda: CONV(8, 6, (4, 3), padding="same"), (8, 7, 6)),
    "same, dilated": (lambda: CONV(8, 6, 2, padding="same", dilation=3), (8, 7, 6)),
    "dilation": (lambda: CONV(8, 6, 3, padding=2, dilation=(2, 1)), (8, 8, 7)),
    "groups": (lambda: CONV(8, 6, 3, padding=1, groups=2, bias=False), (8, 7, 7)),
    "depthwise": (lambda: CONV(8, 8, 3, stride=2, padding=1, groups=8), (8, 7, 7)),
    "depthwise, two each": (lambda: CONV(8, 16, 3, groups=8), (8, 7, 7)),
    "1d": (lambda: nn.Conv1d(8, 6, 4, stride=3, padding=2), (8, 11)),
    "3d": (lambda: nn.Conv3d(8, 6, (1, 3, 2), padding=(0, 1, 0)), (8, 3, 4, 5)),
    "linear": (lambda: nn.Linear(8, 6), (8,)),
    "tokens": (lambda: nn.Linear(8, 6, bias=False), (5, 8)),
    "grid of tokens": (lambda: nn.Linear(8, 6), (5, 3, 8)),
}


SAMPLES = 130
"""More than are unfolded at a time."""


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [SAMPLES, 4 * SAMPLES, 10**6])
def test_rows_times_the_weight_are_the_layers_output(name: str, rows: int) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, inputs = make(), torch.randn(SAMPLES, *shape)
    site = site_of(layer, inputs[:1])
    chosen = positions(site, layer, SAMPLES, rows)
    kind = linear_map(layer)
    weight = kind.matrix_of(kind.weight)
    found = input_rows(site, layer, inputs, chosen) @ weight.transpose(1, 2)
    bias = getattr(layer, "bias", None)
    outputs = found.transpose(0, 1).flatten(1) + (0 if bias is None else bias)
    wanted = output_rows(layer, layer(inputs), chosen)
    torch.testing.assert_close(outputs, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(kind.weight_of(weight), kind.weight)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=0, max_size=2), st.integers(1, 30), st.integers(1, 3000)
)
def test_positions_are_distinct_inside_the_grid_and_the_same_at_every_call(
    places: list[int], samples: int, rows: int
) -> None:
    site, layer = Site("features.3", tuple(places)), nn.Linear(4, 2)
    chosen = positions(site, layer, samples, rows)
    grid = int(torch.tensor(places).prod()) if places else 1
    assert chosen.shape == (samples, max(1, min(rows // samples, grid)))
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < grid
    assert all(len(set(one)) == len(one) for one in chosen.tolist())
    assert torch.equal(chosen, positions(site, layer, samples, rows))


def test_fewer_positions_are_taken_where_the_rows_would_not_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "LARGEST", 72 * 30)
    layer = nn.Conv2d(8, 6, 3)
    assert positions(Site("conv", (5, 5)), layer, 10, 10**6).shape == (10, 3)
