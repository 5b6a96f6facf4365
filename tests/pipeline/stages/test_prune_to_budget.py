"""As little pruned as a budget allows: networks built and measured until one just meets it."""

import logging
from math import ceil
from pathlib import Path

import pytest
import torch
from checkpoints import Tints, folder
from known_measurement import DEVICE, NAME, measurement, run
from spoiled_file import spoil
from torch import Tensor, nn

from exporters.exporter import reported_distributions, resolved_device
from pipeline.measure.sessions import Measure
from pipeline.network.layer_times import Curve, LayerTime, NetworkTimes
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.ratio_search import CLOSE, MOST_BUILDS
from pipeline.stages.build import Build
from pipeline.stages.export import Export
from pipeline.stages.measured_target import BudgetedTarget
from pipeline.stages.prune import Prune
from pipeline.stages.prune_to_budget import (
    RESERVE,
    PruneToBudget,
    largest_share,
)
from pipeline.store.artifacts import Checkpoint, TimedLayers
from pipeline.store.reports import PruneReport
from pipeline.task import Task
from profiles.budget import Budget
from profiles.device import load_device
from profiles.errors import DeviceError, StageError
from profiles.host import this_host

RUNS = measurement().latency


class Wide(nn.Module):
    """Two convolutions of 48 channels: 24,000 parameters, nearly all of them between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 48, 3, padding=1)
        self.conv2 = nn.Conv2d(48, 48, 3, padding=1)
        self.fc = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        answer: Tensor = self.fc(x.mean((2, 3)))
        return answer


def wide() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Wide().eval()


SOURCE = Checkpoint("dense", Task(wide, Tints(64, 0), Tints(16, 1)), None, None)
HOST = resolved_device(load_device("host", Path()))
PRUNE = Prune(criterion=Magnitude(), allocator=Uniform(), preferred_multiple=1, floor=1, samples=32)


def target(name: str = "host", **limits: float) -> BudgetedTarget:
    return BudgetedTarget(
        name=name,
        device=HOST,
        budget=Budget.model_validate(limits),
        build=Build(engine=HOST.engine, options=HOST.options()),
        host=this_host(reported_distributions()),
    )


def stage(*targets: BudgetedTarget, prune: Prune = PRUNE) -> PruneToBudget:
    quick = Measure(processes=5, seconds=0.01, starts=5)
    return PruneToBudget(prune=prune, export=Export(), measure=quick, targets=targets)


def pruned(one: PruneToBudget, path: Path) -> PruneReport:
    out = folder(path)
    one.run(SOURCE, out, path.with_name(f"{path.name} scratch"))
    found = one.load(SOURCE, out, "key")
    found.network()
    return found.report()


def builds(caplog: pytest.LogCaptureFixture) -> int:
    """Networks that were measured, without the dense one."""
    return sum("of the budget" in message for message in caplog.messages) - 1


def test_a_network_that_just_meets_the_budget_is_found_in_few_builds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slimgate")
    report = pruned(stage(target(parameters=12_000)), tmp_path / "out")
    kept = {name: group.kept for name, group in report.groups.items()}
    parameters = 28 * kept["conv1"] + 9 * kept["conv1"] * kept["conv2"] + 5 * kept["conv2"] + 4
    assert (1 - 4 * CLOSE) * 12_000 <= parameters <= 12_000
    dense, *built = report.built
    assert dense.macs_ratio == 1
    assert dense.share == pytest.approx(22_324 / 12_000)
    assert 1 <= len(built) == builds(caplog) <= MOST_BUILDS
    best = max((one for one in built if one.share <= 1), key=lambda one: one.macs_ratio)
    assert (best.macs_ratio, best.share) == (report.macs_ratio, parameters / 12_000)
    assert best.largest == f"host: Parameters, at most 12000, has its bound at {parameters}"


def test_the_tightest_limit_of_the_tightest_target_decides(tmp_path: Path) -> None:
    loose = target("loose", parameters=20_000, macs=10**9)
    tight = target("tight", parameters=23_000, macs_ratio=0.4)
    report = pruned(stage(loose, tight), tmp_path / "out")
    assert 0.4 * (1 - 4 * CLOSE) <= report.macs_ratio <= 0.4
    assert report.built[-1].largest.startswith("tight: MACs, shipped / dense, at most 0.4")


def test_of_a_dense_network_that_meets_the_budget_nothing_is_pruned(tmp_path: Path) -> None:
    wide = PRUNE.model_copy(update={"preferred_multiple": 16})
    report = pruned(stage(target(parameters=30_000), prune=wide), tmp_path / "out")
    assert report.macs == report.macs_dense
    (remark,) = report.remarks
    assert remark.startswith("nothing was pruned: the dense network meets the budget")


@pytest.mark.parametrize(("floor", "least"), [(24, 5980), (41, 16_486)])
def test_a_budget_beyond_reach_ends_before_any_training_with_the_nearest(
    floor: int, least: int, tmp_path: Path
) -> None:
    floored = PRUNE.model_copy(update={"floor": floor})
    with pytest.raises(StageError, match=r"no network that was tried meets the budget") as raised:
        pruned(stage(target(parameters=1000), prune=floored), tmp_path / "out")
    assert f"host: Parameters, at most 1000, has its bound at {least}" in str(raised.value)
    assert not (tmp_path / "out scratch" / "measured").exists()  # another time it may be faster


def test_where_times_of_layers_are_known_only_widths_at_which_they_fall_are_built(
    tmp_path: Path,
) -> None:
    """A device that computes 16 channels in the time of one."""
    widths = (4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48)
    curve = Curve(channels=widths, parts=tuple(ceil(one / 16) / 3 for one in widths))
    whole = {side: Curve(channels=(side,), parts=(1,)) for side in (3, 4)}
    layers: dict[str, tuple[LayerTime, ...]] = {
        "conv1": (LayerTime(ms=1, outputs=curve, inputs=whole[3]),),
        "conv2": (LayerTime(ms=9, outputs=curve, inputs=curve),),
        "fc": (LayerTime(ms=1e-3, outputs=whole[4], inputs=curve),),
    }
    (tmp_path / "layers.json").write_text(NetworkTimes(layers=layers).model_dump_json())
    timed = target(parameters=12_000).with_layers(TimedLayers("times", tmp_path))
    report = pruned(stage(timed), tmp_path / "out")
    kept = {name: group.kept for name, group in report.groups.items()}
    assert sorted(kept.values()) == [32, 32]
    assert report.widths_by_time
    assert len(report.built) - 1 <= MOST_BUILDS
    assert stage(timed).key(SOURCE) != stage(target(parameters=12_000)).key(SOURCE)


def test_that_no_width_saves_time_is_told(tmp_path: Path) -> None:
    flat = Curve(channels=(4,), parts=(1,))
    layers: dict[str, tuple[LayerTime, ...]] = {
        "fc": (LayerTime(ms=1, outputs=flat, inputs=None),),
    }
    (tmp_path / "layers.json").write_text(NetworkTimes(layers=layers).model_dump_json())
    timed = target(parameters=12_000).with_layers(TimedLayers("times", tmp_path))
    with pytest.raises(StageError, match="no width that prune allows takes less time"):
        pruned(stage(timed), tmp_path / "out")


def test_a_device_that_is_fast_enough_does_not_hold_the_others_back(tmp_path: Path) -> None:
    flat = Curve(channels=(4,), parts=(1,))
    narrow = Curve(channels=tuple(range(4, 49, 4)), parts=tuple(n / 12 for n in range(1, 13)))
    gains: dict[str, tuple[LayerTime, ...]] = {
        "conv1": (LayerTime(ms=1, outputs=narrow, inputs=Curve(channels=(3,), parts=(1,))),),
        "conv2": (LayerTime(ms=9, outputs=narrow, inputs=narrow),),
    }
    nothing: dict[str, tuple[LayerTime, ...]] = {
        "fc": (LayerTime(ms=1, outputs=flat, inputs=None),),
    }
    for name, layers in (("gains", gains), ("nothing", nothing)):
        text = NetworkTimes(layers=layers).model_dump_json()
        (folder(tmp_path / name) / "layers.json").write_text(text)
    tight = target("tight", parameters=12_000).with_layers(TimedLayers("1", tmp_path / "gains"))
    loose = target("loose", parameters=30_000).with_layers(TimedLayers("2", tmp_path / "nothing"))
    report = pruned(stage(tight, loose), tmp_path / "out")
    assert report.built[-1].largest.startswith("tight: Parameters, at most 12000")


def test_all_ways_are_tried_once_and_the_nearest_is_gone_to_the_end(tmp_path: Path) -> None:
    auto = PRUNE.model_copy(update={"criterion": "auto", "allocator": "auto"})
    report = pruned(stage(target(parameters=12_000), prune=auto), tmp_path / "out")
    assert len(report.trials) == 8
    nearest = min(
        (trial for trial in report.trials if not trial.reason), key=lambda one: one.distance or 0.0
    )
    assert (report.criterion, report.allocator) == (nearest.criterion, nearest.allocator)


def test_a_search_that_is_killed_measures_nothing_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slimgate")
    one = stage(target(parameters=12_000))
    first = pruned(one, tmp_path / "out")
    assert any("by dynamo" in message for message in caplog.messages)
    caplog.clear()
    (tmp_path / "again").mkdir()
    one.run(SOURCE, tmp_path / "again", tmp_path / "out scratch")
    assert not any("by dynamo" in message for message in caplog.messages)
    assert one.load(SOURCE, tmp_path / "again", "key").report() == first
    assert {path.name for path in (tmp_path / "out scratch").iterdir()} == {"measured"}


def test_a_damaged_note_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = stage(target(parameters=12_000))
    first = pruned(one, tmp_path / "out")
    notes = tmp_path / "out scratch" / "measured"
    spoil(notes, 80)
    (tmp_path / "again").mkdir()
    one.run(SOURCE, tmp_path / "again", tmp_path / "out scratch")
    assert any("all is measured again" in message for message in caplog.messages)
    assert one.load(SOURCE, tmp_path / "again", "key").report() == first


def test_another_machine_or_runtime_makes_another_key() -> None:
    one = target(parameters=12_000)
    runtime = {**one.host.versions, "onnxruntime": "0.0.1"}
    keys = {
        stage(one.model_copy(update={"host": host})).key(SOURCE)
        for host in (
            one.host,
            one.host.model_copy(update={"cpu": "another"}),
            one.host.model_copy(update={"versions": runtime}),
        )
    }
    assert len(keys) == 3


def test_a_device_that_changed_since_it_was_asked_is_not_measured(tmp_path: Path) -> None:
    other = target(parameters=12_000)
    other = other.model_copy(update={"host": other.host.model_copy(update={"cores": 99})})
    with pytest.raises(DeviceError, match="this machine: it was changed since the run began"):
        pruned(stage(other), tmp_path / "out")


def test_a_time_is_taken_at_the_bound_that_the_gate_takes() -> None:
    """Shipped takes half of the dense engine's CPU time and 4 ms of wall time, always."""
    one = BudgetedTarget(
        name=NAME,
        device=DEVICE,
        budget=Budget(latency_p50_ms=5, latency_p50_ratio=0.8, top1_drop=0.5),
        build=Build(engine="ort"),
        host=measurement().host,
    )
    share = largest_share(measurement(), one)
    assert (share.limit, share.bound) == ("latency_p50_ms", 4)
    assert share.value == pytest.approx(0.8 * (1 + RESERVE))
    assert str(share) == "box: Median time of a call, at most 5 ms, has its bound at 4"


def test_what_is_no_time_and_not_told_is_not_pruned_to(caplog: pytest.LogCaptureFixture) -> None:
    untold = measurement().model_copy(
        update={"latency": tuple(one.model_copy(update={"energy_mj": None}) for one in RUNS)}
    )
    one = BudgetedTarget(
        name=NAME,
        device=DEVICE,
        budget=Budget(latency_p50_ratio=0.8, energy_mj=1e-3),
        build=Build(engine="ort"),
        host=untold.host,
    )
    assert largest_share(untold, one).limit == "latency_p50_ratio"
    assert "Energy of a call: the machine counts no energy" in caplog.text


def test_noise_that_the_gate_would_not_take_ends_the_search() -> None:
    noisy = measurement().model_copy(update={"latency": (run(control_ms=4.2),) * 5})
    one = BudgetedTarget(
        name=NAME,
        device=DEVICE,
        budget=Budget(latency_p50_ratio=0.4),
        build=Build(engine="ort"),
        host=noisy.host,
    )
    with pytest.raises(StageError, match=r"box: Median time.*timing noise.*prune\.macs_ratio"):
        largest_share(noisy, one)
