"""The program for boards: complete in one file, Python 3.8, and it dies when nobody listens."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from board_jobs import (
    ANSWERS,
    BIAS,
    ENGINE,
    INPUTS,
    NAME,
    WEIGHT,
    Board,
    build_job,
    latency_job,
    outputs_job,
    start_job,
    wait_for,
)
from onnx_graphs import linear
from pydantic import BaseModel

from exporters.arrays import Array
from exporters.board import main as board
from exporters.board.files import LOCK
from exporters.board.main import (
    Build,
    Facts,
    Job,
    Layers,
    Outputs,
    write_job,
)
from exporters.board.session import TensorSpec, first_output
from exporters.board_program import board_modules, board_program, source_of
from profiles.host import Host
from profiles.measurement import LatencyRun, StartRun

BARE = (
    "import sys, runpy; sys.path += {folders!r}; runpy.run_path({program!r}, run_name='__main__')"
)
"""Runs the program where no package is installed but those of `folders`."""


@pytest.fixture
def here(tmp_path: Path) -> Board:
    return Board(tmp_path)


def interpreters() -> Iterator[str]:
    """This one, and whatever Python 3.8 there is."""
    yield sys.executable
    yield os.environ.get("SLIMGATE_PYTHON38") or shutil.which("python3.8") or "python3.8"


def folders_of(python: str) -> list[str]:
    """Where this interpreter has its packages; skips where it lacks those that are needed."""
    code = "import numpy, onnxruntime, site; print(*site.getsitepackages(), sep='\\n')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"there is no {python}; SLIMGATE_PYTHON38 may name one")
    if done.returncode:
        pytest.skip(f"{python} does not import numpy and onnxruntime")
    return done.stdout.splitlines()


@pytest.mark.parametrize("python", interpreters())
def test_the_program_is_complete_where_nothing_of_ours_is_installed(
    here: Board, python: str
) -> None:
    code = BARE.format(folders=folders_of(python), program=str(here.program))
    command = (python, "-I", "-S", "-c", code)
    kinds: list[tuple[Job, type[BaseModel]]] = [
        (start_job(), StartRun),
        (latency_job(), LatencyRun),
        (replace(start_job(), task=Facts(("numpy", "no-such-library"))), Host),
    ]
    for job, kind in kinds:
        kind.model_validate_json(here.result(job, *command))
    job = outputs_job(here)
    assert isinstance(job.task, Outputs)
    found = json.loads(here.result(job, *command))
    stored = here.files / board.outputs_name(job.task.inputs)
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == found["sha256"]
    np.testing.assert_allclose(np.load(stored), ANSWERS)
    built = json.loads(here.result(build_job(), *command))["sha256"]
    assert hashlib.sha256((here.files / built).read_bytes()).hexdigest() == built


@pytest.mark.parametrize("module", board_modules())
def test_every_module_is_python_38_and_imports_only_what_is_packed(module: str) -> None:
    tree = ast.parse(source_of(module).read_text(), feature_version=(3, 8))
    for name in imported(tree):
        top = name.partition(".")[0]
        if top in ("profiles", "exporters", "pipeline"):
            assert name in board_modules()
        else:
            assert top in sys.stdlib_module_names | {"numpy"} | runtime_of(module)


def runtime_of(module: str) -> set[str]:
    """The one library besides numpy that a module of `sessions` may import at its top."""
    if not module.startswith("exporters.board.sessions."):
        return set()
    names = imported(ast.parse(source_of(module).read_text()))
    tops = {name.partition(".")[0] for name in names}
    found = tops - sys.stdlib_module_names - {"profiles", "exporters", "numpy"}
    assert len(found) <= 1
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """What is imported when the module runs, anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            found = {f"{node.module}.{name.name}" for name in node.names} & set(board_modules())
            yield from found or {node.module}
        yield from imported(node)


def test_the_program_is_the_same_bytes_every_time() -> None:
    assert board_program() == board_program()


def test_a_start_is_weighed_and_a_machine_tells_of_itself(here: Board) -> None:
    found = StartRun.model_validate_json(here.result(start_job()))
    assert 0 < found.baseline_mib < found.peak_mib
    facts = here.result(replace(start_job(), task=Facts(("numpy",)), files={}, engines={}))
    host = Host.model_validate_json(facts)
    assert set(host.versions) == {"python", "numpy"}


def test_times_are_whole(here: Board) -> None:
    assert LatencyRun.model_validate_json(here.result(latency_job())).is_whole()


def test_outputs_are_those_of_the_engine_and_nothing_else_stays(here: Board) -> None:
    job = outputs_job(here)
    assert isinstance(job.task, Outputs)
    here.result(job)
    inputs = job.task.inputs
    np.testing.assert_allclose(np.load(here.files / f"{inputs}.out"), ANSWERS)
    assert here.names() == {LOCK, NAME, inputs, f"{inputs}.out"}


def test_an_engine_that_is_built_there_has_its_name_and_runs_there(here: Board) -> None:
    found = json.loads(here.result(build_job()))
    assert found["facts"] == {}
    name = found["sha256"]
    assert name != NAME
    assert here.names() == {LOCK, NAME, name}
    job = outputs_job(here)
    assert isinstance(job.task, Outputs)
    engines = {"engine": replace(ENGINE, name=name)}
    here.result(replace(job, files={**job.files, name: None}, engines=engines))
    np.testing.assert_allclose(np.load(here.files / f"{job.task.inputs}.out"), ANSWERS)


def test_layers_are_told_apart(here: Board) -> None:
    found = json.loads(here.result(replace(start_job(), task=Layers(1))))["layers_ms"]
    assert len(found) == 1
    assert all(ms > 0 for ms in found.values())


def test_what_a_runtime_cannot_build_is_one_line_and_leaves_nothing(here: Board) -> None:
    model = linear()
    model.graph.node[0].op_type = "NoSuchOp"
    raw = model.SerializeToString()
    name = hashlib.sha256(raw).hexdigest()
    (here.files / name).write_bytes(raw)
    job = replace(build_job(), task=Build(name), files={name: None})
    here.refuses(job, 5, "ort cannot build it", "NoSuchOp")
    assert here.names() == {LOCK, NAME, name}


def test_an_engine_of_fixed_batch_is_given_one_input_at_a_time(here: Board) -> None:
    model = linear()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(model)
    raw = model.SerializeToString()
    name = hashlib.sha256(raw).hexdigest()
    (here.files / name).write_bytes(raw)
    job = outputs_job(here, batch=4)
    assert isinstance(job.task, Outputs)
    files = {**job.files, name: None}
    here.result(replace(job, files=files, engines={"engine": replace(ENGINE, name=name)}))
    np.testing.assert_allclose(np.load(here.files / f"{job.task.inputs}.out"), ANSWERS)


def test_a_large_batch_is_given_in_parts(here: Board) -> None:
    answers = np.tile(ANSWERS, (5, 1))
    found: list[int] = []

    class Counting:
        inputs = (TensorSpec("x", "float32", (None, 2)),)

        def run(self, feed: Mapping[str, Array]) -> list[Array]:
            found.append(len(feed["x"]))
            return [np.asarray(feed["x"]) @ WEIGHT + BIAS]

    given = np.tile(INPUTS, (5, 1))
    np.testing.assert_array_equal(first_output(Counting(), given), answers)
    assert found == [8, 8, 8, 1]


def test_an_engine_for_something_else_is_one_line(here: Board) -> None:
    model = linear()
    model.graph.node[0].op_type = "NoSuchOp"
    raw = model.SerializeToString()
    name = hashlib.sha256(raw).hexdigest()
    (here.files / name).write_bytes(raw)
    engines = {"engine": replace(ENGINE, name=name)}
    here.refuses(replace(start_job(), files={name: None}, engines=engines), 4, "NoSuchOp")


def test_a_runtime_that_is_absent_is_named(here: Board) -> None:
    code, out, err = here.ask(start_job(), sys.executable, "-I", "-S", str(here.program))
    assert (code, out) == (4, "")
    assert "numpy" in err
    assert "ssh.python" in err


@pytest.mark.parametrize("text", ["\n", "nonsense\n", "{}\n", "[]\n", '{"kind": "more"}\n'])
def test_what_is_no_job_is_one_line(here: Board, text: str) -> None:
    here.refuses(text, 4)


def test_a_job_is_read_back_as_it_was_written(here: Board) -> None:
    layers = replace(start_job(), task=Layers(2))
    for job in (start_job(), latency_job(), outputs_job(here), build_job(), layers):
        assert board.read_job(write_job(job)) == job
        assert write_job(job).count("\n") == 1


def test_it_dies_when_nobody_is_connected_any_more(here: Board) -> None:
    with here.start(latency_job(60.0)) as process:
        wait_for(here.files / LOCK)
        assert process.stdin
        process.stdin.close()
        began = time.perf_counter()
        assert process.wait(10) == -9
        assert time.perf_counter() - began < 2
    here.result(start_job())


@pytest.mark.parametrize(("name", "code"), [(NAME, 0), ("0" * 64, 4)])
def test_once_it_has_spoken_it_ends_by_itself(here: Board, name: str, code: int) -> None:
    for _ in range(5):
        with here.start(replace(start_job(), files={name: None})) as process:
            assert process.stdin
            assert process.stdout
            process.stdout.read()
            process.stdin.close()
            assert process.wait(10) == code


def test_it_dies_when_its_time_is_up(here: Board) -> None:
    with here.start(replace(latency_job(60.0), limit_s=1.0)) as process:
        began = time.perf_counter()
        assert process.wait(10) < 0
        assert time.perf_counter() - began < 4
