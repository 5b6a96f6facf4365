"""A network pruned in memory, from a program of one's own."""

import math

import pytest
import torch
from half_pruned import distance, images, same, state_of
from networks import Chain, Concat, Depthwise, Grouped, MixesBright, Residual, trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pipeline.api import Selection, Widths, apply_plan, auto_selections, device_widths, prune
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from profiles.errors import ConfigError, SlimgateError, StageError

MAGNITUDE = Selection(criterion=Magnitude(), allocator=Uniform())
ONE = Selection()
"""Without trials: quicker."""


def loader(count: int = 160, batch: int = 32) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(images(count), torch.arange(count) % 4), batch_size=batch)


def pairs(count: int = 160) -> list[tuple[Tensor, Tensor]]:
    return [(inputs, targets) for inputs, targets in loader(count)]


@pytest.mark.parametrize("kind", [Chain, Residual, Depthwise, Grouped])
@pytest.mark.parametrize("ratio", [0.7, 0.4])
def test_three_lines_prune_a_network_to_its_target_and_repair_it(
    kind: type[nn.Module], ratio: float
) -> None:
    network = trained(kind)
    before = state_of(network)
    slim = prune(network, pairs(), ratio, selection=ONE)
    assert 0.2 * ratio < slim.macs_ratio <= ratio
    assert same(before, network)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (slim.network, network)]
    assert sizes[0] < sizes[1]
    assert not slim.network.training
    (report,) = slim.recoveries
    assert report.name == "least_squares"
    raw, new = apply_plan(network, slim.plan), images(60, 1)
    if report.kept:
        assert distance(slim.network, network, new) < distance(raw, network, new)


class Stamped(nn.Module):
    """A branch of its own reads the third channel."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.stamp = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.mix, self.fc = nn.Conv2d(12, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.look(x[:, :2]), self.stamp(x[:, 2:])
        x = functional.relu(self.mix(functional.relu(torch.cat(branches, 1))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_network_with_a_branch_whose_inputs_never_change_is_pruned_and_repaired() -> None:
    network = trained(Stamped)
    inputs, new = images(160), images(60, 1)
    inputs[:, 2] = new[:, 2] = 0.7
    slim = prune(network, [(inputs, torch.arange(160) % 4)], 0.5)
    raw = apply_plan(network, slim.plan)
    assert distance(slim.network, network, new) < min(0.2, distance(raw, network, new))


def test_samples_that_are_all_the_same_are_refused() -> None:
    inputs = images(1).repeat(70, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"all 70 calibration samples are the same: .*; check"):
        prune(trained(Chain), [(inputs, torch.arange(70) % 4)], 0.5)


def test_of_samples_of_which_only_two_differ_no_more_is_learnt_than_they_tell() -> None:
    network, two = trained(Residual), images(2)
    slim = prune(network, [(two.repeat(80, 1, 1, 1), torch.arange(160) % 4)], 0.5)
    assert distance(slim.network, network, two) < 1e-3
    assert distance(slim.network, network, images(60, 1)) < 0.1


@pytest.mark.parametrize(
    "targets",
    [torch.zeros(160, dtype=torch.long), torch.arange(160) // 40],
    ids=["all", "held out"],
)
def test_samples_of_one_class_prune_a_network_for_all_of_them(targets: Tensor) -> None:
    network, inputs = trained(Residual), images(160)
    for image, label in zip(inputs, targets.tolist(), strict=True):
        image[label : label + 1] += 1
    slim = prune(network, [(inputs, targets)], 0.5)
    new = images(60, 1)
    assert distance(slim.network, network, new) < distance(
        apply_plan(network, slim.plan), network, new
    )


def test_a_held_out_sample_that_cannot_tell_how_near_others_are_is_told_of() -> None:
    network = trained(Chain)
    network.fc = nn.Linear(6, 1).eval()
    samples = [(images(10), torch.zeros(10, 1))]
    with pytest.raises(StageError, match=r"every held-out sample the same .* take more samples"):
        prune(network, samples, 0.5, selection=ONE, loss=functional.mse_loss)


def test_a_data_loader_can_be_given_as_it_is() -> None:
    network = trained(Chain)
    assert prune(network, pairs(), 0.5, selection=ONE).plan == (
        prune(network, iter(pairs()), 0.5, selection=ONE).plan
    )


def test_the_plan_and_the_state_build_the_network_again() -> None:
    slim = prune(trained(Residual), pairs(), 0.5, selection=ONE)
    again = apply_plan(Residual(), slim.plan)
    again.load_state_dict(slim.network.state_dict())
    inputs = images(9, 1)
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), slim.network(inputs))


def test_a_network_with_transposed_convolutions_needs_another_criterion_and_is_told() -> None:
    with pytest.raises(StageError, match=r"left: .*cannot score them; choose another"):
        prune(trained(Concat), pairs(), 0.5, selection=ONE)
    slim = prune(trained(Concat), pairs(), 0.5, selection=MAGNITUDE)
    assert slim.macs_ratio <= 0.5


def test_the_same_samples_give_the_same_network() -> None:
    once, twice = (prune(trained(Residual), pairs(), 0.5, selection=ONE) for _ in range(2))
    assert once.plan == twice.plan
    assert same(state_of(once.network), twice.network)
    assert once.recoveries == twice.recoveries


def test_several_ways_are_tried_and_the_nearest_network_is_taken() -> None:
    network, samples = trained(Residual), pairs()
    found = prune(network, samples, 0.5)
    each = [prune(network, samples, 0.5, selection=one) for one in auto_selections()]
    plans = [one.plan for one in each]
    after = [one.recoveries[0].distance_after or math.inf for one in each]
    assert found.plan in plans
    assert after[plans.index(found.plan)] <= sorted(after)[2]  # trials repair less


def test_a_way_that_cannot_judge_a_network_is_passed_over() -> None:
    assert prune(trained(Concat), pairs(), 0.5).macs_ratio <= 0.5


def test_channels_are_multiples_where_that_is_asked() -> None:
    selection = Selection(widths=Widths(multiple=4, floor=4))
    slim = prune(trained(Depthwise), pairs(), 0.6, selection=selection)
    kept = [len(part.out.channels) for part in slim.plan.layers.values() if part.out]
    assert kept
    assert all(count % 4 == 0 for count in kept)


def test_the_widths_of_a_device_are_known_by_its_name() -> None:
    assert device_widths("raspberry-pi-5") == Widths(multiple=8, floor=8)
    with pytest.raises(ConfigError, match=r"is none of: .*raspberry-pi-5"):
        device_widths("raspberry-pi-6")


def test_recoveries_run_in_turn_and_none_is_no_repair() -> None:
    network = trained(Residual)
    chain = (BnRecalibrate(), BnRecalibrate())
    slim = prune(network, pairs(), 0.5, recoveries=chain, selection=ONE)
    assert [one.name for one in slim.recoveries] == ["bn_recalibrate"] * 2
    bare = prune(network, pairs(), 0.5, recoveries=(), selection=ONE)
    assert bare.recoveries == ()
    assert same(state_of(apply_plan(network, bare.plan)), bare.network)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets)


def test_values_are_pruned_with_a_loss_of_ones_own() -> None:
    batches = [(inputs, torch.randn(len(inputs), 4)) for inputs, _ in pairs()]
    for criterion in (Magnitude(), Reconstruction()):
        selection = Selection(criterion=criterion)
        slim = prune(trained(Residual), batches, 0.5, selection=selection, loss=squared)
        assert slim.recoveries[0].kept


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_samples_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} calibration samples; at least 2 are needed"):
        prune(trained(Chain), pairs(count) if count else [], 0.5)


def test_two_samples_prune_and_repair() -> None:
    slim = prune(trained(Residual), pairs(2), 0.7, selection=ONE)
    assert slim.recoveries[0].remarks == ()
    with torch.no_grad():
        assert bool(slim.network(images(3)).isfinite().all())


class Random(nn.Module):
    """Drops channels even when it is asked for answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(functional.dropout(functional.relu(self.conv(x)).mean((2, 3)), 0.5))
        return y


def test_a_network_that_answers_differently_each_time_is_told_so() -> None:
    torch.manual_seed(0)
    with pytest.raises(StageError, match="answers differently to the same input"):
        prune(Random(), pairs(), 0.5)


def test_what_was_not_pruned_is_told_with_its_reason() -> None:
    slim = prune(MixesBright(by_batch=False).eval(), pairs(), 0.95, selection=MAGNITUDE)
    assert slim.remarks[0].startswith("not pruned: first (a tensor of fixed size takes part")


def test_a_target_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(StageError, match="reaches no less than"):
        prune(trained(Chain), pairs(), 1e-6)


def test_a_network_without_anything_to_prune_is_told() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    with pytest.raises(StageError, match="the network has nothing to prune"):
        prune(network, pairs(), 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("selection", [MAGNITUDE, Selection()])
def test_a_sample_that_is_not_finite_is_named(selection: Selection, value: float) -> None:
    batches = pairs()
    batches[1][0][3, 0, 0, 0] = value
    with pytest.raises(ConfigError, match="calibration sample 35 holds NaN or infinity"):
        prune(trained(Residual), batches, 0.5, selection=selection)


def test_images_of_another_kind_are_told_and_not_a_traceback_of_torch() -> None:
    batches = [(torch.randn(20, 5, 8, 8), torch.arange(20) % 4)]
    with pytest.raises(SlimgateError, match="channels"):
        prune(trained(Chain), batches, 0.5)


def test_a_network_given_in_training_mode_is_pruned_in_eval_mode_and_given_back_so() -> None:
    network = trained(Residual).train()
    wanted = prune(trained(Residual), pairs(), 0.5, selection=ONE)
    slim = prune(network, pairs(), 0.5)
    assert slim.plan == wanted.plan
    assert network.training


class Keeping(nn.Module):
    """Keeps the position biases that it computes, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.biases, self.kept = nn.Parameter(torch.randn(8)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if "biases" not in self.kept:
            self.kept["biases"] = self.biases[:, None].repeat(1, 8)
        logits: Tensor = self.fc(functional.relu(self.stem(x) + self.kept["biases"]).mean((2, 3)))
        return logits


def test_a_network_that_keeps_what_it_computed_with_gradients_is_pruned() -> None:
    dense = trained(Keeping)
    dense(images(1))  # with gradients: torch refuses to copy it from here on
    slim = prune(dense, pairs(), 0.5, selection=MAGNITUDE)
    assert slim.macs_ratio <= 0.5
    assert dense.get_parameter("biases").requires_grad
