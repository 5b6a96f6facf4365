"""The least squares of a layer: exact where it can be, finite and no worse everywhere else."""

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer_sites import site_of
from torch import Tensor, nn

from pipeline.layers.folded_layer import Folded
from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import input_rows, output_rows, positions
from pipeline.layers.torch_calls import RELU, UNBOUNDED, Range
from pipeline.repair.ridge import RIDGES, Problem, error, solve

CONV = nn.Conv2d


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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [12, 200])
def test_few_rows_and_many_give_the_ridge_solution_that_is_nearest_to_the_old_weights(
    rows: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(20, 3, bias=bias), torch.randn(rows + 50, 20) + 0.5
    target = torch.randn(rows + 50, 3)
    found, _, _ = problem(layer, inputs, target)
    got = solve(found, rows).weight[0]
    x, y, weight = (part.detach().double() for part in (inputs[:rows], target[:rows], layer.weight))
    if bias:
        x, y = x - x.mean(0), y - y.mean(0)
    solutions = []
    for ridge in RIDGES:
        root = (ridge * x.square().sum() / 20).sqrt()
        left = torch.cat([x, root * torch.eye(20, dtype=torch.float64)])
        solutions.append(torch.linalg.lstsq(left, torch.cat([y, root * weight.T])).solution.T)
    assert min(float((got - one).abs().max()) for one in solutions) < 1e-5


def test_better_is_said_only_of_what_is_better_on_held_out_rows() -> None:
    reached = set()

    @settings(max_examples=20, deadline=None)
    @example(0, 0.01, 1.0, UNBOUNDED)
    @example(0, 2.0, 0.0, UNBOUNDED)
    @given(
        st.integers(0, 10**6),
        st.floats(0, 2),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from([UNBOUNDED, RELU, (0.0, 6.0)]),
    )
    def holds(seed: int, noise: float, drift: float, limits: Range) -> None:
        torch.manual_seed(seed)
        layer, inputs = nn.Linear(20, 4), torch.randn(45, 20)
        with torch.no_grad():
            target = layer(inputs) + noise * torch.randn(45, 4)  # hardly more rows than weights
            layer.weight += drift * torch.randn(4, 20)  # else the layer is the best there is
        found, _, _ = problem(layer, inputs, target, limits)
        solution = solve(found, 25)
        held = found.part(25, 45)
        assert solution.error_before == error(held, found.weight, found.bias)
        assert solution.error_after == error(held, solution.weight, solution.bias)
        assert solution.better == (solution.error_after < solution.error_before)
        reached.add(solution.better)

    holds()
    assert reached == {True, False}


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


@pytest.mark.parametrize("limits", [UNBOUNDED, RELU])
@pytest.mark.parametrize("rows", [40, 4000])
@pytest.mark.parametrize("still", [32, 64])
def test_weights_of_inputs_that_never_change_stay_and_the_bias_makes_good(
    still: int, rows: int, limits: Range
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, rows, 64, generator=generator)
    inputs[:, :, :still] = torch.rand(still, generator=generator)
    target = torch.randn(rows, 5, generator=generator)
    weight = torch.randn(1, 5, 64, generator=generator) / 8
    fitted = rows - rows // 10
    found = solve(Problem(inputs, target, None, limits, weight, torch.zeros(5), True), fitted)
    assert torch.equal(found.weight[:, :, :still], weight[:, :, :still])
    if limits == UNBOUNDED:
        answers = (inputs @ found.weight.transpose(1, 2))[0] + found.bias
        torch.testing.assert_close(
            answers[:fitted].mean(0), target[:fitted].mean(0), rtol=0, atol=1e-5
        )
