"""Whole residual blocks removed, and the baselines that a pruned network has to beat."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import PRUNE, Tints, checkpoint, folder
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.plan import PruningPlan, apply_plan, compose
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.stages.check import Check
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.store.artifacts import Checked, Checkpoint, Pruned
from pipeline.store.reports import CheckReport
from pipeline.task import Task
from profiles.errors import ConfigError
from profiles.spec import read_spec


class Block(nn.Module):
    """relu(x + strength * conv2(relu(conv1(x))))"""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        with torch.no_grad():
            for parameter in self.conv2.parameters():
                parameter.mul_(strength)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.conv2(functional.relu(self.conv1(x))))


class Blocks(nn.Module):
    """A stem, three blocks of which the middle one does next to nothing, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(1.0), Block(1e-6), Block(1.0))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.stem(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def network() -> nn.Module:
    torch.manual_seed(0)
    return Blocks().eval()


def source() -> Checkpoint:
    return Checkpoint("dense", Task(network, Tints(160, 0), Tints(40, 1)), None, None)


def pruned(stage: Prune, dense: Checkpoint, path: Path) -> Pruned:
    stage.run(dense, folder(path), path.with_name(f"{path.name} scratch"))
    return stage.load(dense, path, "pruned")


FIXED = {"criterion": Magnitude(), "allocator": Uniform()}


def test_the_block_that_changes_its_input_least_is_skipped_and_nothing_else(tmp_path: Path) -> None:
    stage = Prune(blocks=1, samples=64).resolved(1).model_copy(update=FIXED)
    small = pruned(stage, source(), tmp_path / "pruned")
    plan = read_spec(small.plan, PruningPlan)
    assert plan.skipped == ("blocks.1",)
    assert plan.layers == {}
    assert isinstance(small.network().get_submodule("blocks.1"), nn.Identity)
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(small.network()(inputs), network()(inputs))


def test_channels_go_too_and_the_target_counts_the_blocks_that_are_gone(tmp_path: Path) -> None:
    stage = Prune(blocks=1, macs_ratio=0.5, samples=64).resolved(1).model_copy(update=FIXED)
    small = pruned(stage, source(), tmp_path / "pruned")
    report = small.report()
    assert report.macs_ratio <= 0.5
    assert report.macs_dense == pruned(PRUNE, source(), tmp_path / "plain").report().macs_dense
    repair = Recover(chain=(LeastSquares(steps=0),), samples=64)
    repair.run(small, folder(tmp_path / "repaired"), tmp_path / "scratch")
    done = repair.load(small, tmp_path / "repaired", "repaired")
    (one,) = done.report().recoveries
    assert one.kept
    assert done.network()(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_more_blocks_than_there_are_is_a_clear_error(tmp_path: Path) -> None:
    stage = Prune(blocks=4, samples=64).resolved(1)
    with pytest.raises(ConfigError, match=r"prune\.blocks = 4, but only 3 blocks can be removed"):
        stage.run(source(), folder(tmp_path / "out"), tmp_path / "scratch")


def test_a_plan_that_skips_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"skips 'blocks\.7'"):
        apply_plan(network(), PruningPlan(layers={}, skipped=("blocks.7",)))


def test_skipping_later_what_was_pruned_before_leaves_no_layer_of_it_in_the_plan(
    tmp_path: Path,
) -> None:
    small = pruned(PRUNE, source(), tmp_path / "pruned")
    plan = read_spec(small.plan, PruningPlan)
    assert any(name.startswith("blocks.1.") for name in plan.layers)
    both = compose(plan, PruningPlan(layers={}, skipped=("blocks.1",)))
    assert not any(name.startswith("blocks.1.") for name in both.layers)
    inputs = torch.zeros(1, 3, 8, 8)
    again = apply_plan(apply_plan(network(), plan), PruningPlan(layers={}, skipped=("blocks.1",)))
    assert torch.equal(apply_plan(network(), both)(inputs), again(inputs))


def checked(stage: Check, path: Path) -> CheckReport:
    small = pruned(PRUNE, checkpoint(), path / "pruned")
    stage.run(small, folder(path / "check"), path / "scratch")
    done = stage.load(small, path / "check", "check")
    assert isinstance(done, Checked)
    return done.report()


def test_random_channels_are_repaired_and_compared_with_the_chosen_ones(tmp_path: Path) -> None:
    report = checked(Check(samples=64), tmp_path)
    names = [one.name for one in report.baselines]
    assert names == ["chosen", *(f"random {seed}" for seed in range(5))]
    distances = [one.distance for one in report.baselines]
    assert all(distance is not None and distance >= 0 for distance in distances)
    assert len(set(distances[1:])) > 1
    assert all(one.score is None for one in report.baselines)
    assert (report.kendall_tau, report.plans) == (None, 0)


def test_new_weights_are_trained_and_plans_correlated_when_asked(tmp_path: Path) -> None:
    tune = FineTune(epochs=1, learning_rate=0.05, samples=64)
    stage = Check(samples=64, random_seeds=1, scratch=True, correlation_plans=8, finetune=tune)
    report = checked(stage, tmp_path)
    trained = [one for one in report.baselines if one.score is not None]
    assert [one.name for one in trained] == ["from scratch", "small dense"]
    assert all(one.score is not None and 0 <= one.score <= 1 for one in trained)
    assert report.plans == 8
    assert report.kendall_tau is None or -1 <= report.kendall_tau <= 1


def test_checks_leave_the_pruned_network_as_it_is(tmp_path: Path) -> None:
    small = pruned(PRUNE, checkpoint(), tmp_path / "pruned")
    before = {f.name: f.read_bytes() for f in (tmp_path / "pruned").iterdir()}
    Check(samples=64, random_seeds=1).run(small, folder(tmp_path / "check"), tmp_path / "scratch")
    assert {f.name: f.read_bytes() for f in (tmp_path / "pruned").iterdir()} == before


def test_checks_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    small = pruned(PRUNE, checkpoint(), tmp_path / "pruned")
    alone = replace(small, teacher=None)
    with pytest.raises(ConfigError, match="only a pruned network"):
        Check(samples=64).run(alone, folder(tmp_path / "a"), tmp_path / "scratch")
    with pytest.raises(ConfigError, match=r"settings of \[finetune\]"):
        Check(samples=64, scratch=True).run(small, folder(tmp_path / "b"), tmp_path / "scratch")
    with pytest.raises(ValueError, match="0 or at least 8 plans"):
        Check(correlation_plans=3)
