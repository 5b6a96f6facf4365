"""What is gathered of an engine, from real sessions of ONNX Runtime."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from exporters.engines.ort import Ort
from exporters.exporter import Source
from exporters.graph.to_onnx import to_onnx
from exporters.parity import feeds_of
from exporters.worker import EngineFile
from pipeline.data.arrays import FloatArray, Numbers, Targets
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import (
    EVALUATION_BATCH,
    EnginePair,
    Measure,
    score_engine,
    start_engines,
)
from pipeline.task import Task
from profiles.device import EngineOptions

CLASSES, SIZE, SAMPLES = 8, 64, 3 * EVALUATION_BATCH


def engine_at(folder: Path) -> EngineFile:
    """Answers for every pixel, [n, CLASSES, SIZE, SIZE]."""
    network = nn.Conv2d(1, CLASSES, 3, padding=1).eval()
    inputs = np.random.default_rng(0).standard_normal((2, 1, SIZE, SIZE)).astype(np.float32)
    model = to_onnx(network, feeds_of(inputs, dynamic_batch=True), 20, dynamic_batch=True).model
    onnx.save(model, folder / "model.onnx")
    Ort().build(Source(folder / "model.onnx", inputs, lambda: network), folder / "engine.onnx")
    return EngineFile(runtime="ort", options=EngineOptions(), path=str(folder / "engine.onnx"))


class Pixels:
    """Images, and the class of each pixel."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Numbers, Numbers]:
        image = np.full((1, SIZE, SIZE), index, np.float32)
        return image, np.full((SIZE, SIZE), index % CLASSES, np.int64)


def pixel_accuracy(outputs: FloatArray, targets: Targets) -> FloatArray:
    right: FloatArray = (outputs.argmax(1) == targets).mean((1, 2), dtype=np.float32)
    return right


def test_dense_outputs_are_scored_a_batch_at_a_time(tmp_path: Path) -> None:
    engine, split = engine_at(tmp_path), Pixels()
    task = Task(network=nn.Identity, train=split, validation=split, metric=pixel_accuracy)
    tracemalloc.start()
    try:
        scores = score_engine(ThisMachine(), engine, task)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(scores.values) == SAMPLES
    assert scores.labels == ()
    batch_bytes = EVALUATION_BATCH * CLASSES * SIZE * SIZE * 4
    assert peak_bytes < 5 * batch_bytes


def test_each_engine_is_started_as_often_in_turns(tmp_path: Path) -> None:
    engine = engine_at(tmp_path)
    pair = EnginePair(engine, engine)
    dense, shipped = start_engines(ThisMachine(), pair, 1, Measure(starts=3))
    assert (len(dense), len(shipped)) == (3, 3)
    assert all(run.load_ms > 0 and run.peak_mib > run.baseline_mib for run in (*dense, *shipped))
