"""The measuring process: fresh, without torch, one job in and one result or one line out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_graphs import linear
from pydantic import ValidationError
from torch import nn

from exporters.engines.ort import Ort
from exporters.exporter import Source
from exporters.worker import EngineFile, Job, LatencyJob, StartJob
from profiles.device import EngineOptions
from profiles.looks import elapsed_s
from profiles.measurement import LatencyRun, StartRun

WORKER = ("-P", "-m", "exporters.worker")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "model.onnx").write_bytes(linear().SerializeToString())
    source = Source(folder / "model.onnx", np.zeros((1, 2), np.float32), nn.Identity)
    Ort().build(source, folder / "engine.onnx")
    return folder / "engine.onnx"


def work(
    job: Job | str, *command: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    text = job if isinstance(job, str) else job.model_dump_json()
    return subprocess.run(
        [sys.executable, *(command or WORKER)],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )


def ort(engine: Path) -> EngineFile:
    return EngineFile(runtime="ort", options=EngineOptions(), path=str(engine))


def begin(engine: Path) -> Job:
    return Job(start=StartJob(engine=ort(engine), batch=1))


def clock(engine: Path, frame_interval_ms: float | None = None) -> Job:
    names = ("shipped", "dense", "control")
    job = LatencyJob(
        engines=dict.fromkeys(names, ort(engine)),
        batch=1,
        seconds=0.02,
        least_samples=12,
        frame_interval_ms=frame_interval_ms,
        seed=0,
    )
    return Job(latency=job)


def test_a_latency_job_gives_whole_samples_of_every_engine(engine: Path) -> None:
    done = work(clock(engine))
    assert (done.returncode, done.stderr) == (0, "")
    found = LatencyRun.model_validate_json(done.stdout)
    assert found.is_whole()
    assert min(len(t.wall_ns) for t in (found.dense, found.control, found.shipped)) >= 12
    assert min(found.shipped.wall_ns) > 0


def test_frames_are_timed_where_they_are_asked_for(engine: Path) -> None:
    found = LatencyRun.model_validate_json(work(clock(engine, frame_interval_ms=20)).stdout)
    assert len(found.frames_ns) > 40  # a second of them, where 12 were asked for
    assert elapsed_s(found.frame_conditions) >= 1
    assert len(found.frame_conditions) > 2
    assert elapsed_s(found.energy_conditions) > 0
    assert found.frame_conditions[0] == found.conditions[-1]
    assert LatencyRun.model_validate_json(work(clock(engine)).stdout).frames_ns == ()


def test_energy_is_told_where_the_machine_counts_it(engine: Path) -> None:
    found = LatencyRun.model_validate_json(work(clock(engine)).stdout).energy_mj
    assert found is None or found > 0


def test_the_machine_is_looked_at_before_and_after(engine: Path) -> None:
    first, *_, last = LatencyRun.model_validate_json(work(clock(engine)).stdout).conditions
    assert first.at_s < last.at_s
    if first.others_cpu_s is not None and last.others_cpu_s is not None:
        assert last.others_cpu_s - first.others_cpu_s > -0.1


def test_a_start_job_gives_its_times_and_a_peak_above_its_baseline(engine: Path) -> None:
    done = work(begin(engine))
    assert (done.returncode, done.stderr) == (0, "")
    found = StartRun.model_validate_json(done.stdout)
    assert 0 < found.baseline_mib < found.steady_mib <= found.peak_mib
    assert found.method
    assert found.load_ms > 0
    assert found.first_ms > 0


def test_an_engine_for_another_batch_is_refused(tmp_path: Path) -> None:
    model = linear()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "engine.onnx").write_bytes(model.SerializeToString())
    done = work(Job(start=StartJob(engine=ort(tmp_path / "engine.onnx"), batch=3)))
    assert (done.returncode, done.stdout) == (4, "")
    assert "batches of 1, not of 3" in done.stderr


def test_a_missing_engine_is_one_line_and_the_devices_exit_code(tmp_path: Path) -> None:
    for job in (begin(tmp_path / "none.onnx"), clock(tmp_path / "none.onnx")):
        done = work(job)
        assert (done.returncode, done.stdout) == (4, "")
        (line,) = done.stderr.splitlines()
        assert "none.onnx" in line


def test_a_broken_engine_is_one_line_and_the_devices_exit_code(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"nonsense")
    done = work(begin(tmp_path / "engine.onnx"))
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_runtime_is_a_mistake_of_the_user() -> None:
    done = work(
        Job(
            start=StartJob(
                engine=EngineFile(runtime="tensor", options=EngineOptions(), path="e"), batch=1
            )
        )
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "none of the engines" in done.stderr


@pytest.mark.parametrize("text", ["", "nonsense", "{}", '{"start": {}}', '{"more": 1}'])
def test_what_is_no_job_is_no_success(text: str) -> None:
    done = work(text)
    assert done.returncode != 0
    assert done.stdout == ""


def test_a_job_is_exactly_one_of_the_three(engine: Path) -> None:
    with pytest.raises(ValidationError, match="latency, start or compare"):
        Job()
    with pytest.raises(ValidationError, match="latency, start or compare"):
        Job(latency=clock(engine).latency, start=begin(engine).start)


def test_neither_torch_nor_onnx_nor_scipy_weighs_on_the_measurement(engine: Path) -> None:
    code = (
        "import sys, exporters.worker\n"
        "code = exporters.worker.main()\n"
        "heavy = {'torch', 'onnx', 'scipy', 'pipeline'} & set(sys.modules)\n"
        "sys.exit(code or (str(sorted(heavy)) if heavy else 0))"
    )
    done = work(begin(engine), "-P", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_files_in_the_current_folder_are_not_imported(engine: Path, tmp_path: Path) -> None:
    for name in ("exporters", "profiles", "pipeline", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')")
    done = work(begin(engine), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["peak_mib"] > 0
