"""Engines built by the board that runs them, held to their network there; boards side by side."""

import hashlib
import importlib.util
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from boards import Board, changed, free_port, liar, make_keys, obstacle, sshd
from onnx_graphs import linear
from user_project import Project, Table

from exporters.worker import EngineFile
from pipeline.measure.all_targets import hosts_of, one_at_a_time, side_by_side
from pipeline.measure.places import place_of
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.measure.sessions import EnginePair, Measure, Timing, time_engines
from pipeline.store.manifest import MANIFEST
from pipeline.task import Task
from profiles.budget import Budget
from profiles.device import DeviceProfile, EngineOptions, Ssh
from profiles.errors import DeviceError, IntegrityError, StageError
from profiles.host import Host
from profiles.machine.gpu import gpu_of

if obstacle():
    pytest.skip(obstacle(), allow_module_level=True)

from pipeline.measure.board import RemoteBoard

DEVICE = DeviceProfile(description="any machine")
BUDGET = Budget(macs_ratio=0.7)
HOST = 'description = "any machine"\nportable = {portable}\n'
BUILT = "os.path.join(files, json.loads(answer)['result']['sha256'])"
DIFFERENT = """#!{python}
import sys
import onnxruntime
run = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = lambda *a: [1.01 * output for output in run(*a)]
exec(sys.argv[2])
"""

UNPROFILED = """#!{python}
import sys
import onnxruntime
def refuse(session): raise OSError("no room for a profile")
onnxruntime.InferenceSession.end_profiling = refuse
exec(sys.argv[2])
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with sshd(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit here is on time."""
    monkeypatch.setattr("pipeline.measure.sessions.SESSIONS", 1)


def target(ssh: Ssh, **fields: str) -> dict[str, Table]:
    return {"target": {"ssh": ssh.model_dump(), **fields}}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model() -> bytes:
    raw: bytes = linear().SerializeToString()
    return raw


@pytest.mark.usefixtures("once")
def test_an_engine_fitted_to_its_processor_is_built_where_it_runs(
    project: Project, board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = project.recipe(**target(board.ssh))
    passed = project.slimgate("run", recipe, "--json")
    assert passed.code == 0, passed.err
    assert {"build on host ...", "build dense on host ..."} <= set(caplog.messages)
    assert digest(project.bundle / "engine.onnx") in {path.name for path in board.files.iterdir()}
    found = json.loads((project.bundle / "measurement.json").read_text())["shipped"]
    assert found["unverified"] == ""
    assert 0 <= found["parity_error"] < 1e-4
    again = project.slimgate("plan", recipe)
    assert again.out.count("cached") == len(again.out.splitlines()) - 1
    stranger = {**board.ssh.model_dump(), "host_key": make_keys(tmp_path)}
    refused = project.slimgate("plan", project.recipe(target={"ssh": stranger}))
    refused.says(7, "host key")
    elsewhere = project.slimgate("plan", project.recipe(**target(changed(board.ssh, timeout_s=50))))
    assert elsewhere.out == again.out  # how it is reached changes no engine


@pytest.mark.usefixtures("once")
def test_a_portable_engine_is_built_here_and_held_to_its_network_there(
    project: Project, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    (project.folder / "own.toml").write_text(HOST.format(portable="true"))
    outcome = project.slimgate("run", project.recipe(**target(board.ssh, device="own.toml")))
    assert outcome.code == 0, outcome.err
    assert {"build ...", "build dense ..."} <= set(caplog.messages)
    assert "checking the engine's outputs on the device" in caplog.text


@pytest.mark.parametrize("portable", ["true", "false"])
def test_a_board_that_computes_something_else_ships_nothing(
    project: Project, board: Board, tmp_path: Path, portable: str
) -> None:
    python = tmp_path / "different"
    python.write_text(DIFFERENT.format(python=sys.executable))
    python.chmod(0o755)
    (project.folder / "own.toml").write_text(HOST.format(portable=portable))
    ssh = changed(board.ssh, python=str(python))
    outcome = project.slimgate("run", project.recipe(**target(ssh, device="own.toml")))
    assert outcome.code == 5
    there, here = "own: running it on the device", "building with ort at fp32 on root@"
    assert (there if portable == "true" else here) in outcome.err
    assert "changed the network" in outcome.err
    assert not project.bundle.exists()
    again = project.slimgate("plan", project.recipe(**target(board.ssh, device="own.toml")))
    assert ("to run  build dense on own" in again.out) == (portable == "false")


def test_a_board_that_is_not_there_is_told_before_the_work(project: Project, board: Board) -> None:
    recipe = project.recipe(**target(changed(board.ssh, port=free_port())))
    outcome = project.slimgate("run", recipe)
    assert outcome.code == 4
    assert "is it on" in outcome.err
    assert project.stages() == set()
    planned = project.slimgate("plan", recipe, "--json")
    assert planned.code == 0
    (doubt,) = json.loads(planned.out)["doubts"]
    assert "is it on" in doubt
    assert "inconclusive" not in doubt  # a run would not even begin
    names = [stage["name"] for stage in json.loads(planned.out)["stages"]]
    assert "export" in names
    assert "build" not in names


def test_another_machine_than_the_device_is_told_before_the_work(
    project: Project, board: Board
) -> None:
    path = project.folder / "own.toml"
    path.write_text(HOST.format(portable="true") + 'identity = { model = "Raspberry Pi 5" }\n')
    planned = project.slimgate("plan", project.recipe(**target(board.ssh, device="own.toml")))
    assert "what is at 127.0.0.1 is not the device (its model is " in planned.out


def test_an_engine_that_boards_cannot_run_is_a_mistake_of_the_recipe(
    project: Project, board: Board
) -> None:
    (project.folder / "own.toml").write_text('description = "a phone"\nengine = "coreml"\n')
    outcome = project.slimgate("run", project.recipe(**target(board.ssh, device="own.toml")))
    outcome.says(2, "'coreml'", "over SSH there are only: ", "ort")


def test_a_limit_on_memory_of_a_gpu_is_doubted_before_the_work(project: Project) -> None:
    (project.folder / "own.toml").write_text('description = "a GPU"\nengine = "trt"\n')
    planned = project.slimgate("plan", project.recipe(target={"device": "own.toml"}))
    assert "own: peak_memory_mib: not measured on a GPU; it will be inconclusive" in planned.out


def test_a_batch_that_tensorrt_engines_do_not_take_is_a_mistake_of_the_recipe(
    project: Project,
) -> None:
    (project.folder / "own.toml").write_text('description = "x"\nengine = "trt"\nbatch = 9\n')
    recipe = project.recipe(target={"device": "own.toml"}, export={"dynamic_batch": True})
    project.slimgate("plan", recipe).says(2, "batches of 9", "8 at most")


def test_a_board_that_was_changed_since_the_run_began_builds_nothing(
    project: Project, board: Board, tmp_path: Path
) -> None:
    lie = """
answer, _ = honest()
found = json.loads(answer)
if job["kind"] == "facts" and os.path.exists(os.path.join(files, "asked")):
    found["result"]["versions"]["onnxruntime"] = "0.1"
open(os.path.join(files, "asked"), "w").close()
print(json.dumps(found))
"""
    ssh = changed(board.ssh, python=liar(tmp_path, lie))
    outcome = project.slimgate("run", project.recipe(**target(ssh)))
    outcome.says(4, "it was changed since the run began")


@pytest.mark.usefixtures("once")
def test_layers_that_cannot_be_told_apart_cost_no_verdict(
    project: Project, board: Board, tmp_path: Path
) -> None:
    python = tmp_path / "cramped"
    python.write_text(UNPROFILED.format(python=sys.executable))
    python.chmod(0o755)
    ssh = changed(board.ssh, python=str(python))
    outcome = project.slimgate("run", project.recipe(**target(ssh)))
    assert outcome.code == 0, outcome.err
    found = json.loads((project.bundle / "measurement.json").read_text())
    assert found["shipped"]["layers_ms"] == {}


@pytest.mark.usefixtures("once")
def test_two_targets_on_one_new_board_do_not_get_in_each_others_way(
    project: Project, tmp_path: Path
) -> None:
    for attempt in range(4):
        (tmp_path / str(attempt)).mkdir()
        with sshd(tmp_path / str(attempt)) as new:
            targets = [ResolvedTarget(f"t{n}", DEVICE, BUDGET, new.ssh) for n in range(4)]
            hosts = hosts_of(targets)
            assert all(isinstance(host, Host) for host in hosts.values()), hosts


@pytest.mark.usefixtures("once")
def test_two_boards_are_one_verdict(project: Project, board: Board, tmp_path: Path) -> None:
    with sshd(tmp_path) as other:
        path = project.recipe(target=None)
        limits = "budget = { macs_ratio = 0.7, peak_memory_mib = 4096 }"
        for number, ssh in enumerate((board.ssh, other.ssh)):
            fields = ", ".join(f"{k} = {json.dumps(v)}" for k, v in ssh.model_dump().items())
            text = f'\n[[target]]\nname = "b{number}"\n{limits}\nssh = {{ {fields} }}\n'
            path.write_text(path.read_text() + text)
        outcome = project.slimgate("run", path, "--json")
        assert outcome.code == 0, outcome.err
        assert [one["device"] for one in json.loads(outcome.out)["targets"]] == ["b0", "b1"]
        names = {path.name for path in other.files.iterdir()}
        assert digest(project.bundle / "b1-engine.onnx") in names


def test_a_signal_while_a_board_measures_ends_both(project: Project, board: Board) -> None:
    path = project.recipe(**target(board.ssh), measure={"seconds": 60})
    with project.start("run", path) as process:
        assert process.stderr
        for line in process.stderr:
            if "latency in" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert board.falls_silent()
    assert not (project.bundle / MANIFEST).exists()


def built(board: Board, runtime: str, options: EngineOptions, **fields: str) -> bytes:
    with place_of(changed(board.ssh, **fields)) as place:
        assert isinstance(place, RemoteBoard)
        return place.built(runtime, options, model()).content


def test_tensorrt_builds_there(board: Board) -> None:
    importlib.util.find_spec("tensorrt_rtx_bindings") or pytest.skip("TensorRT-RTX is absent")
    engine = built(board, "trt", EngineOptions(compute_capability="8.6", precision="fp32"))
    assert engine.startswith(b"vtrt")
    with pytest.raises(StageError, match=r"127\.0\.0\.1.*trt cannot build it.*8\.7"):
        built(board, "trt", EngineOptions(compute_capability="8.7"))


@pytest.mark.skipif(gpu_of(None) is not None, reason="there is a GPU")
def test_an_engine_for_a_gpu_that_the_board_lacks_does_not_run_there(
    project: Project, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    importlib.util.find_spec("tensorrt_rtx_bindings") or pytest.skip("TensorRT-RTX is absent")
    path = project.folder / "own.toml"
    path.write_text('description = "a GPU"\nengine = "trt"\ncompute_capability = "8.6"\n')
    outcome = project.slimgate("run", project.recipe(**target(board.ssh, device="own.toml")))
    assert outcome.code == 4
    assert "it has no GPU of compute capability 8.6" in caplog.text  # before the work
    outcome.says(4, "needs an NVIDIA GPU of compute capability 8.6")


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        (f"os.unlink({BUILT})", DeviceError, "is missing"),
        (f"open({BUILT}, 'r+b').write(b'?')", IntegrityError, "changed after the board built it"),
        (f"os.truncate({BUILT}, 5 << 30)", DeviceError, "at most"),
        ("answer = answer.replace('facts', 'fiction')", DeviceError, "could not be parsed"),
        ("answer = answer.replace('{}', '{\"layers\": -1}')", DeviceError, "layers"),
    ],
)
def test_an_engine_must_be_the_one_that_was_built(
    board: Board, tmp_path: Path, body: str, kind: type[Exception], word: str
) -> None:
    python = liar(tmp_path, f"answer, _ = honest()\n{body}\nprint(answer)")
    with pytest.raises(kind, match=word):
        built(board, "ort", EngineOptions(), python=python)
    for path in board.files.iterdir():
        path.unlink()


@pytest.mark.parametrize(("wrong", "told"), [(30, "and 10 more"), (1_000_000, "1000000 wrong")])
def test_a_million_wrong_samples_are_one_short_message(
    board: Board, tmp_path: Path, wrong: int, told: str
) -> None:
    lie = f"found = json.loads(honest()[0]); found['result']['conditions'] = [-1] * {wrong}"
    ssh = changed(board.ssh, python=liar(tmp_path, lie + "\nprint(json.dumps(found))"))
    path = tmp_path / "engine.onnx"
    path.write_bytes(model())
    engine = EngineFile(runtime="ort", options=EngineOptions(), path=str(path))
    began = time.perf_counter()
    with place_of(ssh) as place, pytest.raises(DeviceError, match=told) as caught:
        time_engines(place, EnginePair(engine, engine), Timing(Measure(seconds=0.02), 1, "cpu", 12))
    assert time.perf_counter() - began < 30
    assert str(caught.value).startswith(f"{place.name}: its reply could not be parsed: ")
    assert len(str(caught.value)) < 5000


def test_works_are_done_at_the_same_time_and_come_back_in_order() -> None:
    barrier = threading.Barrier(3, timeout=10)

    def work(number: int) -> int:
        barrier.wait()
        return number

    assert side_by_side([partial(work, number) for number in range(3)]) == [0, 1, 2]
    assert side_by_side([]) == []


def test_an_error_does_not_wait_for_what_never_ends() -> None:
    def fail() -> None:
        raise DeviceError("gone")

    ended = threading.Event()
    began = time.perf_counter()
    with pytest.raises(DeviceError, match="gone"):
        side_by_side([lambda: ended.wait(60) and None, fail])
    assert time.perf_counter() - began < 10
    ended.set()


def test_data_and_metric_of_a_user_are_never_called_by_two_at_once() -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        inside -= 1

    class Data:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int, /) -> tuple[int, int]:
            enter()
            return index, index

    def metric(outputs: object, targets: object) -> object:
        enter()
        return np.zeros(1)

    task = Task(network=lambda: None, train=Data(), validation=Data(), metric=metric)  # type: ignore[arg-type, return-value]
    alone = one_at_a_time(task)
    assert len(alone.validation) == 5

    def work() -> list[object]:
        for _ in range(5):
            alone.metric(np.zeros((1, 1)), np.zeros(1))  # type: ignore[arg-type]
        return [alone.validation[index] for index in range(5)]

    assert side_by_side([work] * 4) == [[(index, index) for index in range(5)]] * 4
    assert most == 1
