"""The stages on small real networks: what they keep, repair, resume and hand on."""

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import PRUNE, checkpoint, folder, pruned
from networks import Chain, Concat, Residual
from torch import Tensor, nn

from exporters.engines.ort import Ort
from exporters.exporter import PreparedModel, Source, call_one, runtime
from exporters.graph.open import open_onnx
from pipeline.measure.feeds import RANDOM_INPUTS, REAL_INPUTS, parity_inputs
from pipeline.network.weights import read_weights
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.auto import AUTO_ALLOCATORS, AUTO_CRITERIA
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.stages.build import Build
from pipeline.stages.export import Export
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.store.artifacts import Checkpoint, OnnxModel
from pipeline.store.reports import FineTuneReport, PruneReport
from pipeline.task import cross_entropy
from profiles.errors import ConfigError, StageError
from profiles.machine.facts import versions
from profiles.plugins import name_of
from profiles.spec import read_spec


@pytest.mark.parametrize("kind", [Chain, Residual, Concat])
def test_pruning_meets_its_target_and_reports_asked_and_achieved(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    source = checkpoint(kind)
    small = pruned(source, tmp_path / "pruned")
    report = read_spec(tmp_path / "pruned" / "prune.json", PruneReport)
    assert report.macs_ratio_asked == 0.6
    assert 0.2 < report.macs_ratio <= 0.6
    dense = sum(p.numel() for p in source.network().parameters())
    assert sum(p.numel() for p in small.network().parameters()) < dense


def test_a_multiple_that_only_the_device_prefers_falls_until_the_target_is_reached(
    tmp_path: Path,
) -> None:
    source = checkpoint(Residual)  # channels of 8 and 6
    wanted = Prune(macs_ratio=0.5, samples=64, criterion=Magnitude(), allocator=Uniform())
    prune = wanted.resolved(16)
    assert prune.doubts(source) == ()
    prune.run(source, folder(tmp_path / "out"), tmp_path / "scratch")
    report = read_spec(tmp_path / "out" / "prune.json", PruneReport)
    assert report.macs_ratio <= 0.5
    assert report.remarks[0].startswith("channel counts are multiples of 4: those of 16, which the")
    assert all(g.kept % 4 == 0 or g.kept == g.units for g in report.groups.values())


def test_a_multiple_that_the_user_sets_stays_and_is_known_to_be_too_large(tmp_path: Path) -> None:
    source = checkpoint(Residual)
    prune = Prune(macs_ratio=0.5, samples=64, multiple=8).resolved(16)
    said = "a floor of 8 channels and multiples of 8 reaches no less than 1.000 of dense; set a "
    (doubt,) = prune.doubts(source)
    assert said + "smaller prune.multiple or prune.floor" in doubt
    with pytest.raises(StageError, match=said):
        prune.run(source, folder(tmp_path / "out"), tmp_path / "scratch")


def test_pruning_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pruned(checkpoint(), tmp_path / name)
    for file in ("plan.json", "model.safetensors", "prune.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_auto_writes_every_trial_and_what_was_chosen(tmp_path: Path) -> None:
    pruned(checkpoint(Residual), tmp_path / "pruned")
    report = read_spec(tmp_path / "pruned" / "prune.json", PruneReport)
    criteria = [name_of(criterion) for criterion in AUTO_CRITERIA]
    allocators = [name_of(allocator) for allocator in AUTO_ALLOCATORS]
    tried = [(trial.criterion, trial.allocator) for trial in report.trials]
    assert set(tried) >= {(c, a) for a in allocators for c in criteria}
    in_full = [trial for trial in report.trials if not trial.reason]
    best = min(in_full, key=lambda t: inf if t.distance is None else t.distance)
    assert (report.criterion, report.allocator) == (best.criterion, best.allocator)


def test_a_criterion_that_was_chosen_is_taken_without_trials(tmp_path: Path) -> None:
    stage = PRUNE.model_copy(update={"criterion": Magnitude(), "allocator": Uniform()})
    stage.run(checkpoint(), folder(tmp_path / "out"), tmp_path / "scratch")
    report = read_spec(tmp_path / "out" / "prune.json", PruneReport)
    assert (report.criterion, report.allocator) == ("magnitude", "uniform")
    assert report.trials == ()


def test_reconstruction_of_a_group_that_a_transposed_convolution_reads_is_refused(
    tmp_path: Path,
) -> None:
    chosen = {"criterion": Reconstruction(), "allocator": Uniform()}
    stage = PRUNE.model_copy(update=chosen)
    with pytest.raises(StageError, match=r"left: .*'reconstruction' cannot score them; choose"):
        stage.run(checkpoint(Concat), folder(tmp_path / "out"), tmp_path / "scratch")


@pytest.mark.parametrize("kind", [Residual, Concat])
def test_recovery_writes_what_each_recovery_did(kind: type[nn.Module], tmp_path: Path) -> None:
    small = pruned(checkpoint(kind), tmp_path / "pruned")
    stage = Recover(chain=(BnRecalibrate(), LeastSquares(steps=5)), samples=64)
    stage.run(small, folder(tmp_path / "out"), tmp_path / "scratch")
    recovered = stage.load(small, tmp_path / "out", "recovered")
    reports = recovered.report().recoveries
    assert [one.name for one in reports] == ["bn_recalibrate", "least_squares"]
    assert any(one.kept for one in reports)
    assert recovered.plan == small.plan
    assert recovered.teacher == small.teacher
    found = read_weights(tmp_path / "out" / "model.safetensors")
    state = recovered.network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    if kind is Concat:
        assert not reports[0].kept
        assert reports[0].remarks == ("the network has no batch norm to recalibrate",)


def test_a_network_that_was_not_pruned_here_cannot_be_recovered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only a pruned network can be recovered"):
        Recover(samples=32).run(checkpoint(), folder(tmp_path / "out"), tmp_path / "scratch")
    small = pruned(checkpoint(), tmp_path / "pruned")
    with pytest.raises(ConfigError, match="only a pruned network can be recovered"):
        Recover(samples=32).run(
            replace(small, teacher=None), folder(tmp_path / "out2"), tmp_path / "scratch"
        )


def test_memory_decides_where_samples_lie_and_nothing_else(tmp_path: Path) -> None:
    source, results = checkpoint(), []
    for number, memory_gib in enumerate((None, 1e-9)):
        prune = PRUNE.model_copy(update={"memory_gib": memory_gib})
        assert prune.key(source) == PRUNE.key(source)
        out = folder(tmp_path / str(number))
        prune.run(source, out, tmp_path / f"scratch {number}")
        small = prune.load(source, out, "key")
        recover = Recover(samples=64, memory_gib=memory_gib)
        recover.run(small, out, tmp_path / "scratch")
        results.append([(out / f).read_bytes() for f in ("plan.json", "model.safetensors")])
    assert results[0] == results[1]


def tuned(source: Checkpoint, path: Path, stage: FineTune, scratch: Path) -> FineTuneReport:
    stage.run(source, folder(path), scratch)
    return read_spec(path / "finetune.json", FineTuneReport)


TUNE = FineTune(epochs=3, learning_rate=0.05, batch_size=16, augment="crop_flip")


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_training_learns_and_keeps_the_best_epoch(schedule: str, tmp_path: Path) -> None:
    stage = FineTune.model_validate({**TUNE.model_dump(), "schedule": schedule, "augment": "none"})
    report = tuned(checkpoint(), tmp_path / "out", stage, tmp_path / "scratch")
    scores = [epoch.score for epoch in report.epochs]
    assert len(scores) == 4
    assert max(scores) > scores[0]
    assert scores[report.best] == max(scores)


def test_training_that_only_harms_hands_back_what_it_got(tmp_path: Path) -> None:
    source = checkpoint()
    good = tuned(source, tmp_path / "good", TUNE, tmp_path / "s1")
    assert good.best > 0
    better = replace(source, weights=tmp_path / "good" / "model.safetensors")
    harmful = FineTune(epochs=1, learning_rate=3.0, batch_size=16)
    report = tuned(better, tmp_path / "harmed", harmful, tmp_path / "s2")
    assert report.best == 0
    found = read_weights(tmp_path / "harmed" / "model.safetensors")
    wanted = better.network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


class Fails:
    """The cross entropy, until it has been asked `calls` times."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("power cut")
        return cross_entropy(outputs, targets)


@pytest.mark.parametrize("calls", [3, 12, 22])
def test_a_resumed_training_ends_with_the_very_same_weights(calls: int, tmp_path: Path) -> None:
    source = checkpoint(Residual)
    tuned(source, tmp_path / "whole", TUNE, tmp_path / "s1")
    cut = replace(source, task=replace(source.task, loss=Fails(calls)))
    with pytest.raises(ConfigError, match="power cut"):
        tuned(cut, tmp_path / "cut", TUNE, tmp_path / "s2")
    tuned(source, tmp_path / "resumed", TUNE, tmp_path / "s2")
    for file in ("model.safetensors", "finetune.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (
            tmp_path / "resumed" / file
        ).read_bytes()


def test_label_smoothing_needs_the_cross_entropy(tmp_path: Path) -> None:
    source = checkpoint()
    other = replace(source, task=replace(source.task, loss=Fails(99)))
    stage = FineTune(epochs=1, label_smoothing=0.1)
    with pytest.raises(ConfigError, match="label_smoothing"):
        tuned(other, tmp_path / "out", stage, tmp_path / "scratch")
    tuned(source, tmp_path / "out2", stage, tmp_path / "scratch2")


def test_training_whose_loss_is_nan_ends_with_a_clear_error(tmp_path: Path) -> None:
    stage = FineTune(epochs=1, learning_rate=1e9)
    with pytest.raises(StageError, match=r"the loss is .*lower the learning rate"):
        tuned(checkpoint(Concat), tmp_path / "out", stage, tmp_path / "scratch")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", [Residual, Concat])
def test_a_pruned_networks_engine_answers_as_the_network(
    kind: type[nn.Module], dynamic: bool, tmp_path: Path
) -> None:
    small = pruned(checkpoint(kind), tmp_path / "pruned")
    export = Export(dynamic_batch=dynamic)
    export.run(small, folder(tmp_path / "onnx"), tmp_path / "s1")
    model = export.load(small, tmp_path / "onnx", "onnx")
    build = Build(engine="ort")
    build.run(model, folder(tmp_path / "engine"), tmp_path / "s2")
    engine = build.load(model, tmp_path / "engine", "engine")
    images = np.stack([small.task.validation[i][0] for i in range(5)]).astype(np.float32)
    session = runtime("ort").open(engine.path)
    feeds = [images] if dynamic else [images[i : i + 1] for i in range(5)]
    found = np.concatenate([call_one(session, feed) for feed in feeds])
    with torch.no_grad():
        wanted = small.network()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    report = read_spec(tmp_path / "pruned" / "prune.json", PruneReport)
    assert model.report().macs == report.macs


def test_a_model_tells_its_network_and_its_tools_and_nothing_of_this_machine(
    tmp_path: Path,
) -> None:
    source = checkpoint()
    raw = []
    for name in ("once", "again"):
        Export().run(source, folder(tmp_path / name), tmp_path / "scratch")
        raw.append((tmp_path / name / "model.onnx").read_bytes())
    model = open_onnx(tmp_path / "once" / "model.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told == {"source": source.key, **versions(("slimgate", *Export.LIBRARIES))}
    assert raw[0] == raw[1]
    assert str(tmp_path).encode() not in raw[0]
    assert str(Path.home()).encode() not in raw[0]


def test_parity_is_judged_on_real_random_and_edge_inputs() -> None:
    found = parity_inputs(checkpoint().task)
    edges = found[-8:]
    assert len(found) == min(REAL_INPUTS, len(checkpoint().task.train)) + RANDOM_INPUTS + 8
    assert np.isfinite(found).all()
    assert len(np.unique(edges.reshape(8, -1), axis=0)) == 8


def test_an_engine_that_differs_from_its_model_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint()
    Export().run(source, folder(tmp_path / "onnx"), tmp_path / "s1")
    other = replace(source, task=replace(source.task, network=lambda: Chain().eval()))
    Export().run(other, folder(tmp_path / "other"), tmp_path / "s2")
    model = OnnxModel("onnx", tmp_path / "onnx", source)
    real = Ort.prepare

    def swapped(self: Ort, given: Source) -> PreparedModel:
        return real(self, replace(given, model=tmp_path / "other" / "model.onnx"))

    monkeypatch.setattr(Ort, "prepare", swapped)
    with pytest.raises(StageError, match="building with ort at fp32 changed the network"):
        Build(engine="ort").run(model, folder(tmp_path / "engine"), tmp_path / "s3")
