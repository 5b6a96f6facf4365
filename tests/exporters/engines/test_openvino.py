"""What OpenVINO must keep beyond the contract of every runtime."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import Residual, trained
from onnx_graphs import Floats, feeds
from torch import nn

if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

from exporters.board.archive import pack, unpack
from exporters.board.sessions.openvino import OpenVinoSession
from exporters.engines.openvino import OpenVino
from exporters.exporter import Source, call_one
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import to_onnx
from exporters.parity import compare
from profiles.device import Precision
from profiles.errors import DeviceError

FILES = ("model.xml", "model.bin")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=True).model


def built(
    model: onnx.ModelProto, folder: Path, precision: Precision = "fp32", threads: int = 1
) -> tuple[Path, OpenVinoSession]:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    inputs = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    exporter = OpenVino(precision=precision, threads=threads)
    engine = folder / f"engine{exporter.suffix}"
    exporter.build(Source(folder / "model.onnx", inputs, nn.Identity), engine)
    return engine, exporter.open(engine)


def near(model: onnx.ModelProto, session: OpenVinoSession, shape: tuple[int, ...]) -> float:
    """The relative difference from the fp32 model on unseen inputs."""

    def engine(feed: Floats) -> Floats:
        return call_one(session, feed)

    reference = plain_network(model.SerializeToString())
    return compare(reference, engine, feeds(*shape, count=8, seed=3)).error


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_is_in_the_engine_and_near_fp32(
    model: onnx.ModelProto, tmp_path: Path, precision: Precision
) -> None:
    full, _ = built(model, tmp_path / "fp32")
    less, session = built(model, tmp_path / precision, precision)
    part = {"fp16": 0.6, "int8": 0.5}[precision]
    assert len(unpack(less, FILES)[1]) < part * len(unpack(full, FILES)[1])
    error = near(model, session, (1, 3, 8, 8))
    assert 0 < error < {"fp16": 1e-2, "int8": 0.1}[precision]


def test_int8_convolutions_are_computed_in_integers(model: onnx.ModelProto, tmp_path: Path) -> None:
    _, session = built(model, tmp_path, "int8")
    found = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in session.compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert sum(kind in ("u8", "i8") for kind in found) >= 3


def test_it_computes_in_fp32_on_the_threads_asked_for(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    _, session = built(model, tmp_path, threads=2)
    assert str(session.compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert session.compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert session.compiled.get_property("NUM_STREAMS") == 1


def test_weights_cut_short_inside_a_whole_engine_are_a_fault_of_the_device(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    engine, _ = built(model, tmp_path)
    graph, weights = unpack(engine, FILES)
    engine.write_bytes(pack(dict(zip(FILES, (graph, weights[:-9]), strict=True))))
    with pytest.raises(DeviceError, match=f"cannot load {engine.name}"):
        OpenVino().open(engine)


def test_a_signal_reaches_a_process_that_let_an_engine_go_in_another_thread(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    engine, _ = built(model, tmp_path)
    code = """
import gc, os, signal, sys, threading
from pathlib import Path
from exporters.engines.openvino import OpenVino
held = [OpenVino().open(Path(sys.argv[1]))]
thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code, str(engine)], check=False)
    assert done.returncode == 7


def test_importing_it_starts_no_process_and_reports_to_nobody() -> None:
    code = """
import os, socket, sys
def refuse(*_): os._exit(3)
os.register_at_fork(before=refuse)
socket.socket.connect = refuse
import exporters.engines.openvino
import time; time.sleep(0.5)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
