"""A layer as a linear map: its rows, its batch norm folded, and its least squares."""

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers import sampled_rows as rows_module
from pipeline.layers.folded_layer import Folded
from pipeline.layers.output_sites import Site, find_sites
from pipeline.layers.sampled_rows import input_rows, output_rows, positions
from pipeline.layers.torch_calls import RELU, UNBOUNDED, Range
from pipeline.network.layer_kinds import linear_map
from pipeline.repair.refine_blocks import Block, refine
from pipeline.repair.ridge import Problem, error, solve

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


def site_of(layer: nn.Module, example: Tensor, limits: Range = UNBOUNDED) -> Site:
    shape = layer(example).shape
    places = shape[1:-1] if isinstance(layer, nn.Linear) else shape[2:]
    return Site("layer", tuple(places), range=limits)


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


def problem(
    layer: nn.Module, inputs: Tensor, target: Tensor, limits: Range = UNBOUNDED
) -> tuple[Problem, Site, Tensor]:
    """A layer towards `target` [samples, outputs, ...] at every position."""
    site = site_of(layer, inputs[:1], limits)
    chosen = positions(site, layer, len(inputs), 10**6)
    folded = Folded(layer, None)
    found = Problem(
        inputs=input_rows(site, layer, inputs, chosen),
        target=output_rows(layer, target, chosen),
        other=None,
        range=limits,
        weight=folded.weight(),
        bias=folded.affine()[1],
        shifts=folded.shifts(),
    )
    return found, site, chosen


def without(layer: nn.Module, kept: list[int]) -> nn.Module:
    """The layer that reads (or, depthwise, has) only these channels."""
    small = copy.deepcopy(layer)
    if isinstance(small, nn.Linear):
        small.weight = nn.Parameter(small.weight[:, kept].detach())
    else:
        assert isinstance(small, nn.Conv2d)
        width = small.weight.shape[1]
        places = sorted({channel % width for channel in kept})
        small.weight = nn.Parameter(small.weight[:, places].detach())
        small.in_channels = len(kept)
    return small


READERS: Mapping[str, Callable[[], nn.Module]] = {
    "conv": lambda: CONV(8, 5, 3, padding=1),
    "stride": lambda: CONV(8, 5, 3, stride=2, bias=False),
    "groups": lambda: CONV(8, 6, 3, padding=1, groups=2),
    "linear": lambda: nn.Linear(8, 5),
}


@settings(max_examples=24, deadline=None)
@given(
    st.sampled_from(sorted(READERS)),
    st.sets(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(["combination", "dead", "constant", "copy"]),
    st.integers(0, 10**6),
)
def test_channels_that_the_others_determine_are_replaced_exactly(
    name: str, gone: set[int], kind: str, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = READERS[name]()
    # In two groups the same places go in both: 4 channels each, replaced within their group.
    removed = sorted(gone) + [4 + place for place in sorted(gone)]
    kept = [channel for channel in range(8) if channel not in removed]
    inputs = torch.randn(80, 8, 6, 6) if name != "linear" else torch.randn(400, 8, 1, 1)
    for half in (range(4), range(4, 8)):
        rest = [channel for channel in half if channel in kept]
        for channel in (channel for channel in half if channel in removed):
            mixture = torch.einsum("c,nchw->nhw", torch.randn(len(rest)), inputs[:, rest])
            values = {
                "combination": mixture,
                "dead": torch.zeros(()),
                "constant": torch.full((), 0.7),
                "copy": inputs[:, rest[0]],
            }
            inputs[:, channel] = values[kind]
    if name == "linear":
        inputs = inputs.flatten(1)
    constant = kind == "constant"
    if constant and name in ("conv", "groups", "stride"):
        inputs = inputs[:, :, 1:-1, 1:-1]  # padding makes a constant channel not constant
        layer = nn.Conv2d(8, 6, 3, groups=2 if name == "groups" else 1)
    with torch.no_grad():
        target = layer(inputs)
    small = without(layer, kept)
    found, _, _ = problem(small, inputs[:, kept], target)
    fitted = len(found.target) * 9 // 10
    solution = solve(found, fitted)
    assert kind == "dead" or solution.better
    assert error(found, solution.weight, solution.bias) < 1e-4


@pytest.mark.parametrize("limits", [UNBOUNDED, RELU])
@pytest.mark.parametrize("kind", ["constant channel", "dead channel", "zero filters", "all zero"])
def test_degenerate_layers_have_a_finite_solution(kind: str, limits: Range) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(4, 3, 3, padding=1), torch.randn(40, 4, 6, 6)
    target = layer(inputs).detach()
    with torch.no_grad():
        if kind == "zero filters":
            layer.weight.zero_()
        elif kind == "all zero":
            inputs, target = torch.zeros_like(inputs), torch.zeros_like(target)
        else:
            inputs[:, 1] = 3.0 if kind == "constant channel" else 0.0
    found, _, _ = problem(layer, inputs, target, limits)
    solution = solve(found, 1000)
    assert bool(solution.weight.isfinite().all())
    assert bool(solution.bias.isfinite().all())
    assert solution.error_after <= 1.05 * solution.error_before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 2), st.sampled_from([UNBOUNDED, RELU, (0.0, 6.0)]))
def test_better_is_said_only_of_what_is_better_on_held_out_rows(
    seed: int, noise: float, limits: Range
) -> None:
    torch.manual_seed(seed)
    layer, inputs = nn.Linear(20, 4), torch.randn(45, 20)
    with torch.no_grad():
        target = layer(inputs) + noise * torch.randn(45, 4)  # hardly more rows than weights
    found, _, _ = problem(layer, inputs, target, limits)
    solution = solve(found, 25)
    held = found.part(25, 45)
    assert solution.error_before == error(held, found.weight, found.bias)
    assert solution.error_after == error(held, solution.weight, solution.bias)
    assert solution.better == (solution.error_after < solution.error_before)


def test_what_a_relu_cuts_off_is_not_fitted() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(2, 1), torch.rand(2000, 2) * 2 - 1
    total = inputs.sum(1, keepdim=True)
    target = torch.where(total > 0, total, total - 3 * torch.rand(2000, 1))  # never seen below 0
    aware, _, _ = problem(layer, inputs, target, RELU)
    plain, _, _ = problem(layer, inputs, target)
    one, other = solve(aware, 1600), solve(plain, 1600)
    held = aware.part(1600, 2000)
    assert one.error_after < 0.9 * error(held, other.weight, other.bias)


def test_a_target_is_reached_together_with_what_the_output_is_added_to() -> None:
    torch.manual_seed(0)
    layer, inputs, other = nn.Linear(8, 3), torch.randn(500, 8), torch.randn(500, 3)
    found, _, _ = problem(layer, inputs, (inputs[:, :3] * 2 + other + 1).detach())
    found = Problem(**{**vars(found), "other": other})
    solution = solve(found, 400)
    assert solution.error_after < 1e-6
    torch.testing.assert_close(solution.weight[0], 2 * torch.eye(3, 8), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(solution.bias, torch.ones(3), rtol=1e-3, atol=1e-3)


class Branch(nn.Module):
    """x + second(relu(norm(first(x)))), which a ReLU reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.norm(self.first(x)))) + x)


def block_of(network: Branch, inputs: Tensor, target: Tensor) -> Block:
    sites = find_sites(network, inputs[:1])
    layers = [Folded(network.first, network.norm), Folded(network.second, None)]
    chosen = torch.arange(0, 36, 2).repeat(len(inputs), 1)
    return Block(
        sites=[sites["first"], sites["second"]],
        layers=layers,
        inputs=inputs,
        other=output_rows(network.second, inputs, chosen),
        target=output_rows(network.second, target, chosen),
        positions=chosen,
    )


@pytest.mark.parametrize("seed", range(3))
def test_refining_a_block_lowers_its_error_on_samples_that_were_not_fitted(seed: int) -> None:
    torch.manual_seed(seed)
    inputs = torch.randn(120, 4, 6, 6)
    dense, small = Branch(8).eval(), Branch(5).eval()
    with torch.no_grad():
        wanted = dense.second(functional.relu(dense.norm(dense.first(inputs)))) + inputs
    block = block_of(small, inputs, wanted)
    before = [
        part
        for f in block.layers
        for part in (linear_map(f.layer).weight_of(f.weight()), f.affine()[1])
    ]
    after = refine(block, 60, 100)
    assert after is not None
    assert block.relative(after, 100, 120) < 0.9 * block.relative(before, 100, 120)
    unchanged = [linear_map(f.layer).weight_of(f.weight()) for f in block.layers]
    assert all(torch.equal(a, b) for a, b in zip(unchanged, before[::2], strict=True))


def test_a_block_that_is_right_already_is_not_refined() -> None:
    torch.manual_seed(0)
    inputs, network = torch.randn(60, 4, 6, 6), Branch(8).eval()
    with torch.no_grad():
        wanted = network.second(functional.relu(network.norm(network.first(inputs)))) + inputs
    assert refine(block_of(network, inputs, wanted), 30, 50) is None
