"""Runs that are stopped, runs at the same time, and folders that want to be imported."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from user_project import NETWORK, TASK, Project

from pipeline.store.store import Store

LONG = {"epochs": 100_000, "batch_size": 8}
DEADLINE_S = 120.0


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """The exit code and what was written since; nothing of the session is left alive."""
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def wait_for(process: "subprocess.Popen[str]", words: str) -> str:
    """What the process says up to the line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"ended without {words!r}:\n{said}")


def child_of(process: "subprocess.Popen[str]") -> int:
    """The process that measures, once there is one."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not path.exists():
        pytest.skip("needs to see which processes a process started")
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        children = path.read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    raise AssertionError("no process was started to measure")


def stop(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """SIGINT to all of them, as a terminal's Ctrl-C; SIGTERM to the one, as a supervisor's."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def ends(pid: int) -> bool:
    """Whether a process is gone, or soon will be: one caught while it starts ends by itself."""
    end = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_in_a_stage_says_so_and_leaves_nothing(
    number: signal.Signals, project: Project
) -> None:
    path = project.recipe(finetune=LONG)
    process = project.start("finetune", path, "--out", project.out)
    wait_for(process, "epoch 2 of")
    done = project.stages()
    stop(process, number)
    code, _, said = finish(process)
    assert code == 128 + number
    assert said.endswith("slimgate: stopped; finished stages are kept\n")
    assert "Traceback" not in said
    assert len(done) == 2
    assert project.stages() == done
    assert not project.leftovers()
    assert not project.out.exists()


def test_what_a_killed_run_leaves_is_taken_away_by_the_next(project: Project) -> None:
    path = project.recipe(finetune=LONG)
    process = project.start("finetune", path, "--out", project.out)
    wait_for(process, "epoch 2 of")
    process.kill()
    finish(process)
    assert project.leftovers()
    Store(project.cache)
    assert not project.leftovers()
    assert len(project.stages()) == 2


SLOW = """
import os
import time

from net import Net


class Slow(Net):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLEEP_S", "0")))
        return super().forward(x)


def network():
    return Slow().eval()
"""
TRIAL = re.compile(r"^ +(\w+, \w+): [0-9.]+$", re.MULTILINE)


def test_a_pruning_that_is_killed_goes_on_after_the_trials_that_were_finished(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (project.folder / "slow.py").write_text(SLOW)
    path = project.recipe(task={"network": "slow.py:network"})
    monkeypatch.setenv("SLEEP_S", "0.01")
    process = project.start("prune", path, "--out", project.out)
    monkeypatch.setenv("SLEEP_S", "0")
    said = wait_for(process, "taylor, reconstruction:")
    process.kill()
    said += finish(process)[2]
    tried = TRIAL.findall(said)
    assert 4 <= len(tried) < 8
    assert not project.stages()

    assert project.prune().code == 0
    resumed = "\n".join(caplog.messages)
    noted = re.search(r"resuming after (\d+) trials", resumed)
    assert noted is not None
    left = 8 - int(noted[1])
    assert left <= 8 - len(tried)
    rest = TRIAL.findall(resumed)[:left]
    assert len(rest) == left
    assert not {*tried} & {*rest}
    assert not list((project.cache / "scratch").iterdir())

    files = {name: (project.out / name).read_bytes() for name in ("plan.json", "model.safetensors")}
    shutil.rmtree(project.cache)
    assert project.prune().code == 0
    for name, raw in files.items():
        assert (project.out / name).read_bytes() == raw


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_measuring_that_is_stopped_leaves_no_process_and_no_change(
    number: signal.Signals, released: Project
) -> None:
    before = {path.name: path.read_bytes() for path in released.bundle.iterdir()}
    process = released.start("measure", released.bundle)
    child = child_of(process)
    stop(process, number)
    code, out, said = finish(process)
    assert code == 128 + number
    assert said == "slimgate: stopped; finished stages are kept\n"
    assert out == ""
    assert ends(child)
    assert {path.name: path.read_bytes() for path in released.bundle.iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_it_measures_writes_no_bundle(
    number: signal.Signals, released: Project
) -> None:
    shutil.rmtree(released.bundle)
    path = released.recipe(measure={"seconds": 600})  # only the signal ends it in time
    process = released.start("run", path)
    said = wait_for(process, "measure host: latency")
    child = child_of(process)
    time.sleep(1)  # the child has its job
    stop(process, number)
    code, _, rest = finish(process)
    assert code == 128 + number
    assert rest.endswith("slimgate: stopped; finished stages are kept\n")
    assert said.count(": cached") == 6
    assert ends(child)
    assert not released.bundle.exists()
    assert not released.leftovers()


def test_two_runs_at_once_make_each_stage_once_and_agree(project: Project) -> None:
    path = project.folder / "recipe.toml"
    outs = [project.folder / "a.bundle", project.folder / "b.bundle"]
    processes = [project.start("run", path, "--out", out, once=True) for out in outs]
    finished = [finish(process) for process in processes]
    said = "".join(err for _, _, err in finished)
    assert [code for code, _, _ in finished] == [0, 0], said
    made = re.findall(r"^(\S.*): done, ", said, re.MULTILINE)
    assert sorted(made) == sorted(
        ["export dense", "build dense", "prune", "recover", "export", "build"]
    )
    assert said.count(": cached, ") == 6
    assert len(project.stages()) == 6
    for name in ("engine.onnx", "dense.onnx", "model.onnx", "plan.json", "recipe.json"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    assert not project.leftovers()


HOSTILE = """
from pathlib import Path
Path(__file__).with_name("ran").mkdir(exist_ok=True)
"""
NAMES = "pipeline exporters profiles torch numpy json onnx onnxruntime pydantic random PIL scipy"


def plant(folder: Path) -> Path:
    """Fill a folder with files named like modules; what is there when one of them has run."""
    for name in [*NAMES.split(), "sitecustomize", "usercustomize"]:
        (folder / f"{name}.py").write_text(HOSTILE)
    return folder / "ran"


def test_a_folder_with_files_named_like_modules_runs_none_of_them(released: Project) -> None:
    ran = plant(released.folder)
    process = released.start("run", "recipe.toml")  # which reads net.py in there too
    said = wait_for(process, "measure host: latency")  # ten processes have run by now
    stop(process, signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM
    assert said.count(": cached") == 6
    assert not ran.exists()


def test_a_neighbour_does_not_take_the_place_of_an_installed_package(project: Project) -> None:
    ran = plant(project.folder)
    (project.folder / "helper.py").write_text("from PIL import Image\nimport scipy.special\n")
    (project.folder / "net.py").write_text("import helper, wave\n" + NETWORK)
    project.recipe(task={"file": "task.py:task"})
    (project.folder / "task.py").write_text(TASK)
    (project.folder / "wave.py").write_text(HOSTILE)
    code, out, said = finish(project.start("plan", "recipe.toml"))
    assert code == 0, said
    assert out.count("to run") == 6
    assert not ran.exists()
