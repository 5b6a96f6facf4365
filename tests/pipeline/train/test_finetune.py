"""Fine-tuning by design: taught by the dense network, on few samples or few parameters."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import Tints, checkpoint, folder, kept_at, pruned, squared, task
from networks import Chain, Concat, Residual, trained
from read_errors import no_more_files_to_open
from spoiled_file import spoil
from torch import Tensor, nn

from pipeline.data.arrays import FloatArray
from pipeline.data.durable_files import SEAL_BYTES
from pipeline.stages.finetune import FineTune
from pipeline.store.reports import FineTuneReport
from pipeline.train.epoch_record import Epoch, best_of
from pipeline.train.loop import train
from pipeline.train.optimizer import USUAL_SIZE
from pipeline.train.precision import low_precision
from pipeline.train.progress import Progress
from pipeline.train.settings import Settings
from pipeline.train.trainable import trainable_names
from profiles.errors import ConfigError
from profiles.spec import read_spec

SETTINGS = Settings(epochs=2, learning_rate=0.02, batch_size=16, augment="crop_flip")


def with_settings(**changes: str | float | None) -> Settings:
    return Settings.model_validate({**SETTINGS.model_dump(), **changes})


def last_of(saved: Path) -> Progress:
    found = kept_at(saved).read(torch.device("cpu"))
    assert found is not None
    return found


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


class Watched(nn.Module):
    """A network that keeps what it was shown, and whether it was training then."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.clone()))
        outputs: Tensor = self.network(x)
        return outputs


def test_the_dense_network_sees_what_the_pruned_one_sees_and_stays_what_it_was(
    tmp_path: Path,
) -> None:
    network, dense = Watched(trained(Residual)), Watched(trained(Residual).train())
    before = state(dense)
    train(network, dense, task(Residual), SETTINGS, kept_at(tmp_path / "saved"))
    assert all(torch.equal(value, before[name]) for name, value in state(dense).items())
    assert all(parameter.grad is None for parameter in dense.parameters())
    assert {training for training, _ in dense.seen} == {False}
    assert {training for training, _ in network.seen} == {False, True}
    assert len(dense.seen) == len(network.seen) == 3 + 2 * 4
    pairs = zip(dense.seen, network.seen, strict=True)
    assert all(torch.equal(wanted, found) for (_, wanted), (_, found) in pairs)


def test_without_distillation_the_dense_network_does_not_run(tmp_path: Path) -> None:
    dense = Watched(trained(Chain))
    epochs = train(
        trained(Chain), dense, task(), with_settings(distill=0), kept_at(tmp_path / "saved")
    )
    assert not dense.seen
    assert {epoch.distance for epoch in epochs} == {None}


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_distillation_alone_brings_a_network_near_the_dense_one(loss: str, tmp_path: Path) -> None:
    asked = task() if loss == "cross_entropy" else replace(task(), loss=squared)
    network, dense = trained(Chain), trained(Chain)
    nn.init.normal_(network.get_parameter("fc.weight"))
    settings = with_settings(distill=1, epochs=4, augment="none")
    epochs = train(network, dense, asked, settings, kept_at(tmp_path / "saved"))
    distances = [epoch.distance or 0 for epoch in epochs]
    assert min(distances) < 0.5 * distances[0]
    assert best_of(epochs).distance == min(distances)


def epoch(number: int, score: float, distance: float | None) -> Epoch:
    return Epoch(epoch=number, loss=0.0, score=score, distance=distance)


def test_the_distance_chooses_the_epoch_where_there_is_one_and_the_score_elsewhere() -> None:
    scores, distances = (0.9, 1.0, 1.0, 0.8), (0.5, 0.3, 0.2, 0.2)
    taught = [epoch(i, *both) for i, both in enumerate(zip(scores, distances, strict=True))]
    assert best_of(taught).epoch == 2
    assert best_of([epoch(i, score, None) for i, score in enumerate(scores)]).epoch == 1


def test_the_network_ends_with_the_weights_of_its_best_epoch(tmp_path: Path) -> None:
    network = trained(Chain)
    before = state(network)
    harmful = with_settings(learning_rate=2.0)
    epochs = train(network, trained(Chain), task(), harmful, kept_at(tmp_path / "saved"))
    assert best_of(epochs) is epochs[0]
    assert epochs[0].distance == 0
    assert all(torch.equal(value, before[name]) for name, value in state(network).items())


def test_norm_bias_head_trains_these_alone_and_freezes_the_rest_for_a_while(
    tmp_path: Path,
) -> None:
    network = trained(Chain)
    few = trainable_names(network, "norm_bias_head")
    assert few == {"bn1.weight", "bn1.bias", "conv2.bias", "fc.weight", "fc.bias"}
    before, saved = state(network), tmp_path / "saved"
    train(network, None, task(), with_settings(trainable="norm_bias_head"), kept_at(saved))
    after = last_of(saved)
    changed = {name for name in before if not torch.equal(after.network[name], before[name])}
    assert changed == few | {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}
    moments = ("step", "exp_avg", "exp_avg_sq")
    assert set(after.moments) == {f"{name}/{part}" for name in few for part in moments}
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_only_the_last_linear_layer_is_the_head() -> None:
    few = trainable_names(trained(Concat), "norm_bias_head")
    assert {"fc2.weight", "fc1.bias"} <= few
    assert not {"fc1.weight", "act.weight"} & few


def test_a_network_without_norm_bias_and_head_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.trainable"):
        trainable_names(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), "norm_bias_head")


def test_a_subset_has_every_class_alike_and_is_held_out_from_in_part() -> None:
    data = Tints(400, 0)
    asked = replace(task(), train=data)
    some, held_out = with_settings(samples=80).split(asked)
    assert (len(some), len(held_out)) == (72, 8)
    chosen = np.concatenate([some, held_out])
    assert len(set(chosen.tolist())) == 80
    assert np.bincount(data.targets[chosen]).tolist() == [20] * 4
    everything = np.concatenate(SETTINGS.split(asked))
    assert sorted(everything.tolist()) == list(range(400))


def test_the_moving_average_of_one_step_by_hand_is_scored_and_kept(tmp_path: Path) -> None:
    network = trained(Chain)
    before, saved = state(network), tmp_path / "saved"
    settings = with_settings(epochs=1, batch_size=64, ema=0.75, augment="none", learning_rate=0.5)
    epochs = train(network, None, task(), settings, kept_at(saved))
    after = last_of(saved)
    for name, start in before.items():
        step, average = after.network[name], after.average[name]
        wanted = 0.75 * start + 0.25 * step if start.is_floating_point() else step
        torch.testing.assert_close(average, wanted)
    kept = state(network)
    chosen = after.average if best_of(epochs).epoch else after.best
    assert all(torch.equal(value, chosen[name]) for name, value in kept.items())
    assert not torch.equal(after.average["fc.weight"], after.network["fc.weight"])


class Cut:
    """Data that cannot be read any more after `left` samples."""

    def __init__(self, data: Tints, left: int) -> None:
        self._data, self._left = data, left

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("power cut")
        return self._data[index]


@pytest.mark.parametrize(
    ("trainable", "optimizer"), [("all", "adam"), ("all", "sgd"), ("norm_bias_head", "adam")]
)
@pytest.mark.parametrize("left", [60, 100, 190])
def test_a_resumed_training_ends_with_the_very_same_weights_and_epochs(
    left: int, trainable: str, optimizer: str, tmp_path: Path
) -> None:
    settings = with_settings(ema=0.9, epochs=3, trainable=trainable, optimizer=optimizer)
    whole, dense = trained(Residual), trained(Residual)
    nn.init.normal_(dense.get_parameter("fc.bias"))
    epochs = train(whole, dense, task(Residual), settings, kept_at(tmp_path / "whole"))
    cut = replace(task(Residual), train=Cut(Tints(64, 0), left))
    with pytest.raises(ConfigError, match="power cut"):
        train(trained(Residual), dense, cut, settings, kept_at(tmp_path / "cut"))
    assert (tmp_path / "cut").exists() == (left > 70)
    resumed = trained(Residual)
    assert train(resumed, dense, task(Residual), settings, kept_at(tmp_path / "cut")) == epochs
    found = state(resumed)
    assert all(torch.equal(value, found[name]) for name, value in state(whole).items())
    cut_raw, whole_raw = ((tmp_path / name).read_bytes() for name in ("cut", "whole"))
    assert cut_raw[SEAL_BYTES:] == whole_raw[SEAL_BYTES:]


def test_the_stage_is_taught_by_the_network_its_source_descends_from(tmp_path: Path) -> None:
    source = checkpoint(Residual)
    small = pruned(source, tmp_path / "pruned")
    assert small.teacher is source
    stage = FineTune(epochs=3, learning_rate=0.02, batch_size=16, samples=80)
    stage.run(small, folder(tmp_path / "tuned"), tmp_path / "scratch")
    report = read_spec(tmp_path / "tuned" / "finetune.json", FineTuneReport)
    distances = [epoch.distance or 0 for epoch in report.epochs]
    assert distances[report.best] == min(distances) > 0
    tuned = stage.load(small, tmp_path / "tuned", "tuned")
    assert (tuned.teacher, tuned.plan) == (source, small.plan)
    assert tuned.network()


def test_a_network_that_descends_from_none_learns_from_the_labels(tmp_path: Path) -> None:
    stage = FineTune(epochs=1, batch_size=16)
    stage.run(checkpoint(), folder(tmp_path / "out"), tmp_path / "scratch")
    report = read_spec(tmp_path / "out" / "finetune.json", FineTuneReport)
    assert {epoch.distance for epoch in report.epochs} == {None}


def test_the_first_step_of_adam_is_a_part_of_each_tensors_size(tmp_path: Path) -> None:
    network = trained(Chain)
    nn.init.zeros_(network.get_parameter("fc.bias"))
    before, saved = state(network), tmp_path / "saved"
    settings = with_settings(epochs=1, batch_size=64, learning_rate=0.01)
    train(network, None, task(), settings, kept_at(saved))
    after = last_of(saved)
    for name in ("conv1.weight", "fc.weight", "fc.bias"):
        size = before[name].square().mean().sqrt().item() or USUAL_SIZE
        step = (after.network[name] - before[name]).abs().max().item()
        assert step == pytest.approx(0.01 * size, rel=1e-3)  # Adam's first step is the rate


@pytest.mark.parametrize(("native", "kind"), [(True, torch.bfloat16), (False, torch.float16)])
def test_low_precision_is_what_the_device_is_fast_in(
    native: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": native})
    assert low_precision(torch.device("cpu")) is (torch.bfloat16 if native else None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert low_precision(torch.device("cuda")) is kind


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_low_precision_multiplies_in_it_and_keeps_whole_weights_and_losses(
    kind: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.train.epoch.low_precision", lambda device: kind)
    network, losses = trained(Chain), list[torch.dtype]()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses.append(outputs.dtype)
        return squared(outputs, targets)

    dtypes = list[torch.dtype]()
    network.get_submodule("fc").register_forward_hook(lambda *all: dtypes.append(all[2].dtype))
    asked = replace(task(), loss=loss)
    epochs = train(network, trained(Chain), asked, SETTINGS, kept_at(tmp_path / "saved"))
    assert dtypes == [torch.float32, *[kind] * 4, torch.float32, *[kind] * 4, torch.float32]
    assert set(losses) == {torch.float32}
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert epochs[-1].distance != epochs[0].distance


def damages(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """A bit of every region of a file flipped, and the file cut short; with what was done."""
    length = len(raw)
    places = {*range(0, SEAL_BYTES + 20), *range(SEAL_BYTES + 20, length, length // 40), length - 1}
    for place in sorted(places):
        for bit in (0, 3, 7):
            flipped = bytes([raw[place] ^ 1 << bit])
            yield f"bit {bit} of byte {place}", raw[:place] + flipped + raw[place + 1 :]
    for end in (0, 1, SEAL_BYTES - 1, SEAL_BYTES, length // 2, length - 1):
        yield f"cut to {end} bytes", raw[:end]
    yield "longer", raw + b"\0"


def test_a_damaged_progress_is_seen_told_of_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = tmp_path / "saved"
    train(trained(Chain), None, task(), with_settings(epochs=1), kept_at(saved))
    raw = saved.read_bytes()
    for what, damaged in damages(raw):
        caplog.clear()
        saved.write_bytes(damaged)
        assert kept_at(saved).read(torch.device("cpu")) is None, what
        assert f"{saved} is damaged; the training begins again" in caplog.text
        assert not saved.exists()
    saved.write_bytes(raw)
    assert kept_at(saved).read(torch.device("cpu")) is not None


def test_the_progress_of_another_training_is_none(tmp_path: Path) -> None:
    for name in ("key", "other"):
        folder(tmp_path / name)
    train(trained(Chain), None, task(), with_settings(epochs=1), kept_at(tmp_path / "key" / "a"))
    raw = (tmp_path / "key" / "a").read_bytes()
    for path in (tmp_path / "other" / "a", tmp_path / "key" / "b"):
        path.write_bytes(raw)
        assert kept_at(path).read(torch.device("cpu")) is None


def test_a_progress_that_cannot_be_read_is_kept(tmp_path: Path) -> None:
    train(trained(Chain), None, task(), with_settings(epochs=1), kept_at(tmp_path / "a"))
    with no_more_files_to_open(), pytest.raises(OSError, match="Too many open files"):
        kept_at(tmp_path / "a").read(torch.device("cpu"))
    assert kept_at(tmp_path / "a").read(torch.device("cpu")) is not None


@pytest.mark.parametrize("place", [10, -1, None])
def test_a_training_whose_progress_was_damaged_ends_with_the_very_same_weights(
    place: int | None, tmp_path: Path
) -> None:
    stage = FineTune(epochs=2, learning_rate=0.02, batch_size=32)
    stage.run(checkpoint(), folder(tmp_path / "whole"), tmp_path / "scratch")
    spoil(tmp_path / "scratch" / "epoch", place)
    stage.run(checkpoint(), folder(tmp_path / "again"), tmp_path / "scratch")
    for name in ("model.safetensors", "finetune.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
