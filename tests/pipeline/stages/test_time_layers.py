"""The times of a network's layers, each shape once, kept over a kill."""

import logging
from pathlib import Path

import pytest
from boards import obstacle, sshd
from checkpoints import checkpoint, folder
from spoiled_file import spoil

from exporters.exporter import reported_distributions, resolved_device
from pipeline.measure.places import place_of
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.network.layer_times import NetworkTimes
from pipeline.stages.build import Build
from pipeline.stages.measured_target import MeasuredTarget
from pipeline.stages.time_layers import TimeLayers
from profiles.budget import Budget
from profiles.device import DeviceProfile, Ssh, load_device
from profiles.errors import DeviceError, StageError
from profiles.host import this_host

SOURCE = checkpoint()
HOST = resolved_device(load_device("host", Path()))
SSH = Ssh(host="board", user="me", host_key="ssh-ed25519 AAAA")


def target(device: DeviceProfile = HOST, ssh: Ssh | None = None) -> MeasuredTarget:
    build = Build(engine=device.engine, options=device.options())
    host = this_host(reported_distributions())
    return MeasuredTarget(device=device, build=build, host=host, ssh=ssh)


def timed(path: Path, scratch: Path) -> NetworkTimes:
    stage = TimeLayers(target=target())
    try:
        stage.run(SOURCE, folder(path), scratch)
    except StageError as error:
        pytest.skip(f"another process has the machine: {error}")
    return stage.load(SOURCE, path, "key").times()


def test_every_layer_is_timed_and_a_killed_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slimgate")
    scratch = tmp_path / "scratch"
    first = timed(tmp_path / "first", scratch)
    assert set(first.layers) == {"conv1", "conv2", "fc"}
    assert caplog.messages == [f"  {number} of 3 layers" for number in (1, 2, 3)]
    caplog.clear()
    assert timed(tmp_path / "again", scratch) == first
    assert caplog.messages == []
    spoil(scratch / "times", 80)
    timed(tmp_path / "damaged", scratch)
    assert "all layers are timed again" in caplog.text
    assert "  3 of 3 layers" in caplog.messages


def test_another_machine_board_runtime_precision_or_batch_makes_another_key() -> None:
    one = target()
    runtime = {**one.host.versions, "onnxruntime": "0.0.1"}
    others = [
        one.model_copy(update={"host": one.host.model_copy(update={"cpu": "another"})}),
        one.model_copy(update={"host": one.host.model_copy(update={"versions": runtime})}),
        target(HOST.model_copy(update={"precision": "fp16"})),
        target(HOST.model_copy(update={"batch": 2})),
        target(ssh=SSH),
    ]
    keys = {TimeLayers(target=each).key(SOURCE) for each in (one, *others)}
    assert len(keys) == 6


def test_a_device_that_changed_since_it_was_asked_is_not_timed(tmp_path: Path) -> None:
    other = target().model_copy(update={"host": target().host.model_copy(update={"cores": 99})})
    with pytest.raises(DeviceError, match="this machine: it was changed since the run began"):
        TimeLayers(target=other).run(SOURCE, folder(tmp_path / "out"), tmp_path / "scratch")


def test_a_board_is_sent_engines_that_it_fits_to_itself() -> None:
    alone = target(ssh=SSH).for_layers()
    assert alone.device.portable
    assert isinstance(alone.build, Build)
    assert alone.build.options.portable
    assert not target().for_layers().device.portable


def test_only_some_runtimes_time_layers() -> None:
    def times_layers(**changed: str) -> bool:
        device = HOST.model_copy(update=changed)
        return ResolvedTarget("host", device, Budget(top1_drop=0.1), None).times_layers()

    assert times_layers()
    assert times_layers(precision="int8")
    assert not times_layers(engine="ncnn")


@pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "none")
def test_layers_are_timed_on_a_board_and_none_of_their_engines_stays(tmp_path: Path) -> None:
    with sshd(folder(tmp_path / "board")) as board:
        with place_of(board.ssh) as place:
            there = place.host()
        on_board = target(ssh=board.ssh).model_copy(update={"host": there})
        stage, out = TimeLayers(target=on_board.for_layers()), folder(tmp_path / "out")
        before = {path.name for path in board.files.iterdir()}
        try:
            stage.run(SOURCE, out, tmp_path / "scratch")
        except StageError as error:
            pytest.skip(f"another process has the machine: {error}")
        assert set(stage.load(SOURCE, out, "key").times().layers) == {"conv1", "conv2", "fc"}
        assert {path.name for path in board.files.iterdir()} - before <= {"lock"}
