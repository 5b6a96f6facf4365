"""Every runtime keeps one contract; a new file in exporters/engines is tested as it is."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Residual, trained
from onnx_graphs import Floats, feeds, linear
from torch import nn
from torchvision.models import mobilenet_v2

from exporters.board.session import Session, TensorSpec
from exporters.board.sessions.ort import PROVIDER, OrtSession
from exporters.engines.ort import Ort
from exporters.exporter import (
    Exporter,
    Source,
    call_one,
    exporter_class,
    runtime,
    runtime_names,
)
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import to_onnx, torch_network
from exporters.parity import compare, require
from profiles.device import EngineOptions, Precision
from profiles.errors import ConfigError, DeviceError, MissingExtra, StageError

ENGINES = runtime_names()
ENGINES_AT_PRECISIONS = [(name, p) for name in ENGINES for p in exporter_class(name).PRECISIONS]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LIBRARIES = (
    "ai_edge_litert",
    "coremltools",
    "executorch",
    "ncnn",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "torch",
)


@pytest.fixture(scope="module", params=ENGINES)
def exporter(request: pytest.FixtureRequest) -> Exporter:
    return installed(request.param)


@pytest.fixture(scope="module", params=ENGINES_AT_PRECISIONS, ids="-".join)
def exporter_at_precision(request: pytest.FixtureRequest) -> Exporter:
    return installed(*request.param)


def installed(name: str, precision: Precision = "fp32") -> Exporter:
    """The exporter of a runtime; skips the test where its library is not installed."""
    try:
        return runtime(name, EngineOptions(precision=precision, compute_capability="8.6"))
    except MissingExtra as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """A real network with batch norms and a residual stream."""
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=True).model


@pytest.fixture(scope="module")
def single() -> onnx.ModelProto:
    """The same network for a batch of one."""
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=False).model


class Linear(nn.Module):
    """What `graphs.linear` is, in torch: x [[1, 3], [2, 4]] + [10, 20]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.fc.load_state_dict(
            {"weight": torch.tensor([[1.0, 2], [3, 4]]), "bias": torch.tensor([10.0, 20])}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x)
        return y


def source(model: onnx.ModelProto, network: nn.Module, folder: Path) -> Source:
    """`model` as a file, beside the network it is; its calibration has the shape of its input."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    inputs = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    return Source(folder / "model.onnx", inputs, network.eval)


def built(exporter: Exporter, given: Source) -> Path:
    engine = given.model.with_name(f"engine{exporter.suffix}")
    exporter.build(given, engine)
    return engine


def opened(exporter: Exporter, given: Source) -> Session:
    """The engine built and opened; where none can run, that is said, and the test is skipped."""
    engine = built(exporter, given)
    assert engine.stat().st_size > 0
    if exporter.unavailable_reason():
        with pytest.raises(DeviceError):
            exporter.open(engine)
        pytest.skip(exporter.unavailable_reason())
    return exporter.open(engine)


def test_there_is_a_runtime() -> None:
    assert "ort" in ENGINES


def test_an_engine_gives_the_answer_known_by_hand(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, source(linear(), Linear(), tmp_path))
    (found,) = session.run({session.inputs[0].name: np.array([[1, 2]], np.float32)})
    assert found.dtype == np.float32
    assert found.tolist() == [[1 + 2 * 2 + 10, 3 * 1 + 4 * 2 + 20]]


def test_an_engine_tells_its_inputs(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, source(linear(), Linear(), tmp_path))
    (found,) = session.inputs
    assert found in [TensorSpec(found.name, "float32", (batch, 2)) for batch in (None, 1)]


def test_layers_have_times_by_module_where_the_runtime_tells_them(
    exporter_at_precision: Exporter, single: onnx.ModelProto, tmp_path: Path
) -> None:
    exporter, given = exporter_at_precision, source(single, trained(Residual), tmp_path)
    opened(exporter, given)
    found = exporter.layer_times_ms(given.model.with_name(f"engine{exporter.suffix}"), 1)
    profiles_layers = type(exporter).layer_times_ms is not Exporter.layer_times_ms
    layers = [node.name for node in single.graph.node if node.op_type == "Conv"]
    assert layers[1] == "inner.0/Conv"
    assert set(layers) & set(found) == (set(layers) if profiles_layers else set())
    assert all(0 < ms < 1000 for ms in found.values())


def test_a_portable_engine_has_times_by_module(single: onnx.ModelProto, tmp_path: Path) -> None:
    given = source(single, trained(Residual), tmp_path)
    exporter = Ort(portable=True)
    found = exporter.layer_times_ms(built(exporter, given), 1)
    assert set(found) >= {node.name for node in single.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize("batch", [1, 5])
def test_an_engine_is_the_network_it_was_built_from(
    exporter: Exporter, network: onnx.ModelProto, tmp_path: Path, batch: int
) -> None:
    session = opened(exporter, source(network, trained(Residual), tmp_path))
    if batch > 1 and session.inputs[0].shape[0] is not None:
        pytest.skip("this runtime's engines have a fixed batch")
    reference = plain_network(network.SerializeToString())

    def engine(feed: Floats) -> Floats:
        return call_one(session, feed)

    require("building", compare(reference, engine, feeds(batch, 3, 8, 8, seed=3)))


def test_an_engine_of_a_lower_precision_is_near_its_network(
    exporter_at_precision: Exporter, single: onnx.ModelProto, tmp_path: Path
) -> None:
    exporter = exporter_at_precision
    session = opened(exporter, source(single, trained(Residual), tmp_path))
    inputs = feeds(1, 3, 8, 8, count=8, seed=3)
    reference = plain_network(single.SerializeToString())
    parity = compare(reference, lambda batch: call_one(session, batch), inputs)
    require("building", parity, exporter.precision)


@pytest.mark.parametrize("name", ENGINES)
def test_a_precision_that_the_runtime_lacks_is_refused_with_those_it_has(name: str) -> None:
    installed(name)
    known = exporter_class(name).PRECISIONS
    assert "fp32" in known
    for precision in set(PRECISIONS) - set(known):
        with pytest.raises(ConfigError, match=f"{precision} is none .*: {', '.join(known)}"):
            runtime(name, EngineOptions(precision=precision))


def test_the_same_network_gives_the_same_bytes_and_not_a_word(
    exporter_at_precision: Exporter,
    single: onnx.ModelProto,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exporter, raw = exporter_at_precision, []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        engine = built(exporter, source(single, trained(Residual), tmp_path / name))
        raw.append(engine.read_bytes())
    assert raw[0] == raw[1]
    assert str(tmp_path).encode() not in raw[0]
    if not exporter.unavailable_reason():
        call_one(exporter.open(engine), np.zeros((1, 3, 8, 8), np.float32))
    assert capfd.readouterr().out == ""


def test_mobilenet_v2_is_itself_at_fp32(exporter: Exporter, tmp_path: Path) -> None:
    if exporter.unavailable_reason():
        pytest.skip(exporter.unavailable_reason())
    network = trained(mobilenet_v2)
    model = to_onnx(network, feeds(1, 3, 64, 64), opset=20, dynamic_batch=False).model
    session = opened(exporter, source(model, network, tmp_path))
    assert session.inputs[0].shape == (1, 3, 64, 64)
    inputs = feeds(1, 3, 64, 64, count=8, seed=3)
    parity = compare(torch_network(network), lambda batch: call_one(session, batch), inputs)
    assert require("building", parity).error < 1e-5


@pytest.mark.parametrize("name", ENGINES)
def test_what_a_runtime_is_like_is_known_without_its_library(name: str) -> None:
    code = f"""
import sys
sys.modules |= dict.fromkeys({LIBRARIES!r})
from exporters.exporter import exporter_class
kind = exporter_class({name!r})
assert kind.suffix.startswith(".") and "fp32" in kind.PRECISIONS
assert kind.LARGEST_BATCH is None or kind.LARGEST_BATCH >= 8  # what is not timed goes by eights
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_one_run_returned_the_next_does_not_change(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, source(linear(), Linear(), tmp_path))
    first = call_one(session, np.zeros((1, 2), np.float32))
    call_one(session, np.ones((1, 2), np.float32))
    assert first.tolist() == [[10, 20]]


def test_an_engine_is_a_file_of_its_own(exporter: Exporter, tmp_path: Path) -> None:
    engine = built(exporter, source(linear(), Linear(), tmp_path))
    assert exporter.suffix.startswith(".")
    (tmp_path / "model.onnx").unlink()
    assert {path.name for path in tmp_path.iterdir()} == {engine.name}
    if exporter.unavailable_reason():
        pytest.skip(exporter.unavailable_reason())
    moved = engine.rename(tmp_path / f"moved{exporter.suffix}")
    assert call_one(exporter.open(moved), np.ones((1, 2), np.float32)).tolist() == [[13, 27]]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x0a" * 99, None])
def test_a_file_that_is_no_engine_is_a_fault_of_the_device(
    exporter: Exporter, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / f"engine{exporter.suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceError, match=path.name):
        exporter.open(path)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_an_engine_cut_short_is_a_fault_of_the_device(
    exporter: Exporter, network: onnx.ModelProto, tmp_path: Path, cut: float
) -> None:
    engine = built(exporter, source(network, trained(Residual), tmp_path))
    raw = engine.read_bytes()
    engine.write_bytes(raw[: int(cut * len(raw))])
    with pytest.raises(DeviceError, match=engine.name):
        exporter.open(engine)


class Complex(nn.Module):
    """A network that no edge runtime takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.eigvals(x.T @ x).real[None]
        return values


def test_a_network_that_cannot_be_built_is_a_fault_of_the_stage(
    exporter: Exporter, tmp_path: Path
) -> None:
    given = source(linear(), Complex(), tmp_path)
    given.model.write_bytes(b"nonsense")
    with pytest.raises((StageError, ConfigError)):
        exporter.build(given, tmp_path / f"engine{exporter.suffix}")
    assert not (tmp_path / f"engine{exporter.suffix}").exists()


def test_onnx_runtime_names_an_op_that_it_does_not_know(tmp_path: Path) -> None:
    model = linear()
    model.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(ConfigError, match="NoSuchOp"):
        built(Ort(), source(model, Linear(), tmp_path))


def test_an_engine_depends_on_named_versions(exporter: Exporter) -> None:
    found = exporter.environment()
    assert found
    assert all(found.values())
    assert found == exporter.environment()


def test_an_unknown_runtime_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'tensor' is none of the engines: .*ort"):
        runtime("tensor")


def test_the_threads_are_those_asked_for() -> None:
    assert runtime("ort", EngineOptions(threads=3)) == Ort(threads=3)


def test_onnx_runtime_runs_on_the_cpu_and_nothing_else(tmp_path: Path) -> None:
    engine = built(Ort(), source(linear(), Linear(), tmp_path))
    session = onnxruntime.InferenceSession(str(engine), providers=[PROVIDER])
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert OrtSession(session).inputs[0].name == "x"
    others = [name for name in onnxruntime.get_available_providers() if name != PROVIDER]
    for other in others:
        mixed = onnxruntime.InferenceSession(str(engine), providers=[other, PROVIDER])
        with pytest.raises(DeviceError, match=other):
            OrtSession(mixed)


def test_onnx_runtime_folds_the_batch_norms_when_it_builds(
    network: onnx.ModelProto, tmp_path: Path
) -> None:
    engine = onnx.ModelProto.FromString(
        built(Ort(), source(network, trained(Residual), tmp_path)).read_bytes()
    )
    assert "BatchNormalization" not in {node.op_type for node in engine.graph.node}
    assert len(engine.graph.node) <= len(network.graph.node)


def test_a_portable_engine_has_nothing_in_it_of_this_processor(
    network: onnx.ModelProto, tmp_path: Path
) -> None:
    given = source(network, trained(Residual), tmp_path)
    domains = {}
    for exporter in (Ort(), Ort(portable=True)):
        raw = built(exporter, given).read_bytes()
        domains[exporter.portable] = {n.domain for n in onnx.ModelProto.FromString(raw).graph.node}
        session = exporter.open(given.model.with_name("engine.onnx"))
        (feed,) = feeds(1, 3, 8, 8, count=1, seed=7)
        wanted = plain_network(network.SerializeToString())(feed)
        np.testing.assert_allclose(call_one(session, feed), wanted, rtol=1e-4, atol=1e-5)
    assert "com.microsoft.nchwc" not in domains[True]
    assert "cpu" not in Ort(portable=True).environment()
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert "com.microsoft.nchwc" in domains[False]


def test_the_plain_network_is_the_graph_as_it_stands() -> None:
    plain = plain_network(linear().SerializeToString())
    assert plain(np.zeros((3, 2), np.float32)).tolist() == [[10, 20]] * 3
    with pytest.raises(StageError, match="cannot load the model"):
        plain_network(b"nonsense")
