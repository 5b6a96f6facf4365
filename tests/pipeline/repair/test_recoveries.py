"""Repair without training: each recovery exact where it can be, undone where it harms."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from half_pruned import half, images, same, state_of
from networks import NETWORKS, Chain, Concat, Residual, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.calibration import Calibration
from pipeline.network.distance import teacher_for_loss
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan
from pipeline.repair.chain import answers, distance_from, repair
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.bias_compensate import BiasCompensate
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.task import cross_entropy
from profiles.plugins import plugin, plugin_names

NAMES = plugin_names("pipeline.repair.recoveries")
NOTHING = PruningPlan(layers={})


def calibration(count: int = 120, held_out: int = 20) -> Calibration:
    targets = np.arange(count) % 4
    return Calibration(images(count), targets, held_out)


def recovery(name: str) -> Recovery:
    return plugin("pipeline.repair.recoveries", name, Recovery)()  # type: ignore[type-abstract]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_recovery_runs_on_every_network_and_leaves_the_dense_one_alone(
    name: str, kind: type[nn.Module]
) -> None:
    dense, samples = trained(kind), calibration()
    plan = half(dense)
    small = apply_plan(dense, plan)
    names = {key: value.shape for key, value in small.state_dict().items()}
    before, given = state_of(dense), samples.inputs.clone()
    recovery(name).recover(small, dense, plan, samples)
    assert same(before, dense)
    assert torch.equal(samples.inputs, given)
    assert {key: value.shape for key, value in small.state_dict().items()} == names
    assert all(bool(value.isfinite().all()) for value in small.state_dict().values())
    for network in (small, dense):
        assert not any(module.training for module in network.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    with torch.no_grad():
        assert bool(small(images(5, 1)).isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_every_recovery_gives_the_same_answer_twice(name: str) -> None:
    dense, samples = trained(Residual), calibration()
    plan = half(dense)
    small = [apply_plan(dense, plan) for _ in range(2)]
    for network in small:
        recovery(name).recover(network, dense, plan, samples)
    assert same(state_of(small[0]), small[1])


def test_bn_recalibration_is_the_average_over_all_batches_and_touches_nothing_else() -> None:
    network, samples = trained(Chain), calibration(148, 20)  # two batches of 64
    before = state_of(network)
    assert not BnRecalibrate().recover(network, network, NOTHING, samples)
    conv = network.get_submodule("conv1")
    with torch.no_grad():
        outputs = [conv(samples.inputs[start : start + 64]) for start in (0, 64)]
    mean = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    after = network.state_dict()
    torch.testing.assert_close(after["bn1.running_mean"], mean)
    torch.testing.assert_close(after["bn1.running_var"], variance)
    kept = [n for n in before if "running" not in n and "tracked" not in n]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    norm = network.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1
    assert not norm.training


def test_bn_recalibration_of_a_network_without_batch_norm_changes_nothing_and_says_so() -> None:
    network = trained(Concat)
    before = state_of(network)
    remarks = BnRecalibrate().recover(network, network, NOTHING, calibration())
    assert remarks == ("the network has no batch norm to recalibrate",)
    assert same(before, network)


class Constant(nn.Module):
    """Every second channel between the two layers is constant, whatever the input."""

    def __init__(self, reader: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.reader = nn.Conv2d(3, 6, 1), reader
        self.norm = norm or nn.Identity()
        with torch.no_grad():
            self.first.weight[1::2] = 0
            assert self.first.bias is not None
            self.first.bias[1::2] = torch.tensor([0.5, 1.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        if isinstance(self.reader, nn.Linear):
            x = x.mean((2, 3))
        y: Tensor = self.norm(self.reader(x))
        return y


READERS: Mapping[str, Callable[[], Constant]] = {
    "1 x 1": lambda: Constant(nn.Conv2d(6, 5, 1)),
    "3 x 3": lambda: Constant(nn.Conv2d(6, 5, 3)),
    "linear": lambda: Constant(nn.Linear(6, 5)),
    "norm": lambda: Constant(nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5)),
    "norm and bias": lambda: Constant(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5)),
    "groups": lambda: Constant(nn.Conv2d(6, 6, 3, groups=3)),
}


@pytest.mark.parametrize("name", READERS)
def test_bias_compensation_of_constant_channels_is_exact(name: str) -> None:
    torch.manual_seed(0)
    dense = READERS[name]().eval()
    for norm in (m for m in dense.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 1.5)
    kept = Kept(of=6, channels=(0, 2, 4))
    plan = PruningPlan(layers={"first": LayerPlan(out=kept), "reader": LayerPlan(inputs=kept)})
    small = apply_plan(dense, plan)
    inputs = images(10, 1)
    with torch.no_grad():
        assert float((small(inputs) - dense(inputs)).abs().max()) > 0.1
        assert not BiasCompensate().recover(small, dense, plan, calibration())
        torch.testing.assert_close(small(inputs), dense(inputs), rtol=1e-4, atol=1e-5)


def test_a_reader_without_any_bias_is_told() -> None:
    dense = Constant(nn.Conv2d(6, 5, 3, bias=False)).eval()
    kept = Kept(of=6, channels=(0, 2, 4))
    plan = PruningPlan(layers={"first": LayerPlan(out=kept), "reader": LayerPlan(inputs=kept)})
    small = apply_plan(dense, plan)
    before = state_of(small)
    remarks = BiasCompensate().recover(small, dense, plan, calibration())
    assert remarks == ("reader: has no bias to compensate in",)
    assert same(before, small)


class Harm(Recovery):
    """Makes the network answer differently."""

    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        with torch.no_grad():
            network.get_parameter("fc.bias").add_(torch.tensor([5.0, 0.0, -5.0, 0.0]))
        return ("did harm",)


class Breaks(Recovery):
    """Makes the network answer NaN."""

    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        with torch.no_grad():
            network.get_parameter("fc.bias").fill_(float("nan"))
        return ()


@pytest.mark.parametrize("harmful", [Harm(), Breaks()])
def test_a_recovery_that_makes_it_worse_is_undone_and_reported(harmful: Recovery) -> None:
    dense, samples = trained(Residual), calibration()
    plan = half(dense)
    small, alone = apply_plan(dense, plan), apply_plan(dense, plan)
    before = state_of(small)
    (report,) = repair(small, dense, plan, [harmful], samples, cross_entropy)
    assert not report.kept
    assert report.distance_before is not None
    worse = report.distance_after
    assert (worse is None) == isinstance(harmful, Breaks)  # NaN is told as none
    assert worse is None or worse > report.distance_before
    assert same(before, small)
    chain = [harmful, LeastSquares(steps=5), harmful]
    reports = repair(small, dense, plan, chain, samples, cross_entropy)
    assert [one.kept for one in reports] == [False, True, False]
    assert reports[1].distance_before == reports[0].distance_before
    assert reports[2].distance_before == reports[1].distance_after
    repair(alone, dense, plan, [LeastSquares(steps=5)], samples, cross_entropy)
    assert same(state_of(alone), small)


def test_the_distance_reported_is_the_divergence_on_the_held_out_samples() -> None:
    dense, samples = trained(Chain), calibration()
    plan = half(dense)
    small = apply_plan(dense, plan)
    held = samples.inputs[100:]
    with torch.no_grad():
        wanted, found = (functional.log_softmax(n(held).double(), 1) for n in (dense, small))
    expected = float((wanted.exp() * (wanted - found)).sum(1).mean())
    (report,) = repair(small, dense, plan, [LeastSquares(steps=0)], samples, cross_entropy)
    assert report.distance_before == pytest.approx(expected, rel=1e-5)
    teacher = teacher_for_loss(dense, cross_entropy, [held], temperature=1.0)
    assert report.distance_after == distance_from(teacher, small, held, answers(teacher, held))
    assert report.name == "least_squares"
    assert report.kept


def test_a_network_that_is_the_dense_one_has_nothing_to_repair() -> None:
    dense = trained(Chain)
    small = copy.deepcopy(dense)
    reports = repair(
        *(small, dense, NOTHING, [BnRecalibrate(), LeastSquares()]), calibration(), cross_entropy
    )
    assert [one.kept for one in reports] == [False, False]
    assert same(state_of(dense), small)


def test_what_is_not_logits_is_compared_by_squared_error() -> None:
    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean() * 0 + targets.float().mean() * 0

    dense, samples = trained(Residual), calibration()
    plan = half(dense)
    small = apply_plan(dense, plan)
    held = samples.inputs[100:]
    with torch.no_grad():
        wanted, found = dense(held).double(), small(held).double()
    expected = float((wanted - found).square().mean() / wanted.var(correction=0))
    (report,) = repair(small, dense, plan, [LeastSquares(steps=5)], samples, squared)
    assert report.distance_before == pytest.approx(expected, rel=1e-4)
    assert report.kept


def test_mixtures_are_of_samples_on_the_same_side_of_what_is_held_out() -> None:
    samples = calibration(12, 2)
    mixed = samples.with_mixtures()
    assert (mixed.fitted, len(mixed)) == (20, 24)
    assert torch.equal(mixed[:10], samples.inputs[:10])
    assert torch.equal(mixed[20:22], samples.inputs[10:])
    for place, one, other in ((10, 0, 9), (13, 3, 2), (22, 10, 11)):
        wanted = 0.6 * samples.inputs[one] + 0.4 * samples.inputs[other].flip(-1)
        torch.testing.assert_close(mixed[place : place + 1][0], wanted)
    assert torch.equal(mixed[7:23], mixed[:24][7:23])  # across all parts
