"""One pass through a pruned network that makes it answer as the dense one again."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from half_pruned import FITTED, HELD, distance, half, images, same, state_of
from networks import Chain, Concat, Depthwise, Fork, Grouped, PreActivation, Residual, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.folded_layer import folded
from pipeline.layers.output_sites import find_sites
from pipeline.layers.sampled_rows import input_rows, output_rows
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.spool import Memory
from pipeline.repair.dense_targets import DenseTargets, dense_targets
from pipeline.repair.resolve_layers import pruned_blocks, resolve_layers
from pipeline.repair.ridge import Problem, solve
from profiles.errors import StageError

ROWS = 10**6


class Plain(nn.Module):
    """Convolutions without batch norm, ReLUs in place; a pool and a linear pair at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(10, 8, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.hidden, self.fc = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).mean((2, 3))
        logits: Tensor = self.fc(functional.dropout(functional.relu(self.hidden(x)), 0.5, False))
        return logits


def targets_on(dense: nn.Module, inputs: Tensor, fitted: int = FITTED) -> DenseTargets:
    """Every row there is."""
    return dense_targets(dense, inputs, fitted, ROWS, Memory())


KINDS = (Chain, Residual, Depthwise, Grouped, Concat, Plain, Fork, PreActivation)


@pytest.mark.parametrize("steps", [0, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_network_answers_new_inputs_far_more_like_the_dense_one(
    kind: type[nn.Module], steps: int
) -> None:
    dense = trained(kind)
    before = state_of(dense)
    plan, inputs, new = half(dense), images(), images(HELD, 1)
    small = apply_plan(dense, plan)
    was = distance(small, dense, new)
    remarks = resolve_layers(small, plan, targets_on(dense, inputs), steps)
    assert not remarks
    assert distance(small, dense, new) < 0.5 * was
    assert same(before, dense)
    assert not small.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


@pytest.mark.parametrize(
    ("kind", "brightness"),
    [(Chain, 0.0), (Residual, 0.0), (Concat, 0.0)]
    + [(kind, 0.7317) for kind in (Residual, Depthwise, Grouped, Concat)],
)
def test_a_repair_on_blank_images_makes_no_network_worse_on_others(
    kind: type[nn.Module], brightness: float
) -> None:
    dense = trained(kind)
    plan, inputs, new = half(dense), torch.full((120, 3, 8, 8), brightness), images(HELD, 1)
    small = apply_plan(dense, plan)
    was = distance(small, dense, new)
    assert not resolve_layers(small, plan, targets_on(dense, inputs, 100), 0)
    assert distance(small, dense, new) < was


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_lost_nothing_stays_what_it_is(kind: type[nn.Module]) -> None:
    dense = trained(kind)
    small, inputs = copy.deepcopy(dense), images()
    resolve_layers(small, PruningPlan(layers={}), targets_on(dense, inputs), 20)
    assert distance(small, dense, images(HELD, 1)) < 1e-4


def without_drift(small: nn.Module, dense: nn.Module, plan: PruningPlan, inputs: Tensor) -> None:
    """Solve each layer of a chain on what the dense network feeds it, its channels cut out."""
    targets = targets_on(dense, inputs)
    layers, seen = dict(small.named_modules()), dict[str, Tensor]()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].clone()

        return hook

    whole = dict(dense.named_modules())
    handles = [whole[name].register_forward_pre_hook(keep(name)) for name in targets.sites]
    with torch.no_grad():
        dense(inputs)
    for handle in handles:
        handle.remove()
    for name, site in targets.sites.items():
        part, layer = plan.layers.get(name), folded(layers, site)
        given, wanted = seen[name], targets.rows[name][:]
        if part and part.inputs:
            given = given[:, list(part.inputs.channels)]
        if part and part.out:
            wanted = wanted[:, list(part.out.channels)]
        rows = input_rows(site, layer.layer, given, targets.positions[name])
        bias = layer.affine()[1]
        problem = Problem(rows, wanted, None, site.range, layer.weight(), bias, layer.shifts())
        found = solve(problem, FITTED * targets.positions[name].shape[1])
        if found.better:
            layer.write(found.weight, found.bias, rows)


@pytest.mark.parametrize("kind", [Chain, Plain])
def test_what_earlier_layers_got_wrong_is_made_good_by_later_ones(kind: type[nn.Module]) -> None:
    dense = trained(kind)
    plan, inputs, new = half(dense), images(), images(HELD, 1)
    each, whole = apply_plan(dense, plan), apply_plan(dense, plan)
    without_drift(each, dense, plan, inputs)
    resolve_layers(whole, plan, targets_on(dense, inputs), 0)
    assert distance(whole, dense, new) < distance(each, dense, new)


def test_a_layer_with_fewer_rows_than_weights_is_solved_as_well() -> None:
    dense = trained(Grouped)
    plan = half(dense)
    small = apply_plan(dense, plan)
    before = state_of(small)
    # fc reads 3 of 5 channels of one row a sample; the others have 64 rows a sample.
    assert resolve_layers(small, plan, targets_on(dense, images(3), 2), 0) == ()
    assert not torch.equal(before["fc.weight"], small.state_dict()["fc.weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_told_with_the_layer(value: float) -> None:
    dense, inputs = trained(Residual), images(60)
    plan, targets = half(dense), targets_on(dense, inputs, 50)
    inputs[7] = value
    with pytest.raises(StageError, match=r"stem: its inputs are not finite on the calibration"):
        resolve_layers(apply_plan(dense, plan), plan, targets, 0)


def test_a_layer_that_gives_nan_is_found_by_the_one_that_reads_it() -> None:
    dense, inputs = trained(Residual), images(60)
    plan, targets = half(dense), targets_on(dense, inputs, 50)
    small = apply_plan(dense, plan)
    with torch.no_grad():
        small.get_parameter("outer_bn.0.bias")[0] = float("nan")
    with pytest.raises(StageError, match=r"inner\.1: its inputs are not finite"):
        resolve_layers(small, plan, targets, 0)


def test_a_layer_is_left_alone_when_its_solution_is_worse_on_samples_not_fitted() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(40, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    # Fitted samples say nothing of the others: their targets come from different inputs.
    inputs = torch.randn(60, 40)
    targets = targets_on(dense, inputs, 50)
    rows = {
        name: torch.cat([torch.randn(50, width) * 3, targets.rows[name][50:60]])
        for name, width in (("0", 4), ("2", 2))
    }
    targets = replace(targets, rows=rows)
    small = copy.deepcopy(dense)
    before = state_of(small)
    resolve_layers(small, PruningPlan(layers={}), targets, 0)
    assert same(before, small)


def test_blocks_are_the_layers_up_to_a_sum_that_were_pruned_inside() -> None:
    dense = trained(Residual)
    sites = find_sites(dense, images(1))
    found = pruned_blocks(sites, half(dense))
    names = {name: [site.layer for site in block] for name, block in found.items()}
    assert names == {"outer.0": ["inner.0", "outer.0"], "outer.1": ["inner.1", "outer.1"]}
    assert not pruned_blocks(sites, PruningPlan(layers={}))


class Doubled(nn.Module):
    """The sum of a layer's output with itself, and with what its ReLU makes of it."""

    def __init__(self, add: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv3, self.add = nn.Conv2d(8, 4, 1), add

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(
            functional.relu(self.add(self.conv2(functional.relu(self.conv1(x)))))
        )
        return y.mean((2, 3))


@pytest.mark.parametrize(
    "add",
    [lambda y: y + y, lambda y: y + functional.relu(y), lambda y: (y + 1.0) * (y + y.mean())],
    ids=["itself", "its ReLU", "a mean"],
)
def test_sums_of_an_output_with_what_is_made_of_it_do_not_break_the_resolve_layers(
    add: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    dense = Doubled(add).eval()
    plan, inputs, new = half(dense), images(), images(HELD, 1)
    small = apply_plan(dense, plan)
    was = distance(small, dense, new)
    resolve_layers(small, plan, targets_on(dense, inputs), 0)
    assert distance(small, dense, new) < was


class ScaledSkip(nn.Module):
    """second(relu(first(x))) + 2 * first(x), the two in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.add(self.second(functional.relu(x)), x, alpha=2).mean((2, 3))


def test_a_sum_of_which_one_side_is_scaled_is_not_repaired_as_the_plain_sum() -> None:
    torch.manual_seed(0)
    dense = ScaledSkip().eval()
    small = copy.deepcopy(dense)
    resolve_layers(small, PruningPlan(layers={}), targets_on(dense, images()), 0)
    assert distance(small, dense, images(HELD, 1)) < 1e-4


def test_targets_are_rows_of_the_sum_where_a_layer_joins_one() -> None:
    dense, inputs = trained(Residual), images(5)
    targets = targets_on(dense, inputs)
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.setdefault(str(len(seen)), args[0].clone())

    handle = dense.get_submodule("relu").register_forward_pre_hook(keep)
    with torch.no_grad():
        dense(inputs)
    handle.remove()
    # The one ReLU module runs after bn, and then twice in each block.
    for name, call in (("stem", "0"), ("inner.0", "1"), ("outer.0", "2"), ("outer.1", "4")):
        chosen = targets.positions[name]
        wanted = output_rows(dense.get_submodule(name), seen[call], chosen)
        torch.testing.assert_close(targets.rows[name][:], wanted)
