"""Every runtime keeps one contract; a new file in exporters/engines is tested as it is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import Floats, feeds, linear
from networks import Residual, trained

from exporters.base import Exporter, Session, TensorSpec, call_one, runtime
from exporters.engines.ort import PROVIDER, Ort, OrtSession, plain_network
from exporters.parity import compare, require
from exporters.to_onnx import to_onnx
from profiles.errors import ConfigError, DeviceError, MissingExtra, StageError
from profiles.plugins import plugin_names

ENGINES = plugin_names("exporters.engines")


@pytest.fixture(scope="module", params=ENGINES)
def exporter(request: pytest.FixtureRequest) -> Exporter:
    try:
        return runtime(request.param, 1)
    except MissingExtra as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """A real network with batch norms and a residual stream."""
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=True).model


def built(exporter: Exporter, model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    engine = folder / f"engine{exporter.suffix}"
    exporter.build(folder / "model.onnx", engine)
    return engine


def opened(exporter: Exporter, model: onnx.ModelProto, folder: Path) -> Session:
    return exporter.open(built(exporter, model, folder))


def test_there_is_a_runtime() -> None:
    assert "ort" in ENGINES


def test_an_engine_gives_the_answer_known_by_hand(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, linear(), tmp_path)
    (found,) = session.run({"x": np.array([[1, 2]], np.float32)})
    assert found.dtype == np.float32
    assert found.tolist() == [[1 + 2 * 2 + 10, 3 * 1 + 4 * 2 + 20]]


def test_an_engine_tells_its_inputs(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, linear(), tmp_path)
    assert session.inputs == (TensorSpec("x", "float32", (None, 2)),)


@pytest.mark.parametrize("batch", [1, 5])
def test_an_engine_is_the_network_it_was_built_from(
    exporter: Exporter, network: onnx.ModelProto, tmp_path: Path, batch: int
) -> None:
    session = opened(exporter, network, tmp_path)
    reference = plain_network(network.SerializeToString())

    def engine(feed: Floats) -> Floats:
        return call_one(session, feed)

    require("building", compare(reference, engine, feeds(batch, 3, 8, 8, seed=3)))


def test_what_one_run_returned_the_next_does_not_change(exporter: Exporter, tmp_path: Path) -> None:
    session = opened(exporter, linear(), tmp_path)
    first = session.run({"x": np.zeros((1, 2), np.float32)})[0]
    session.run({"x": np.ones((1, 2), np.float32)})
    assert first.tolist() == [[10, 20]]


def test_an_engine_is_a_file_of_its_own(exporter: Exporter, tmp_path: Path) -> None:
    engine = built(exporter, linear(), tmp_path)
    assert exporter.suffix.startswith(".")
    (tmp_path / "model.onnx").unlink()
    assert {path.name for path in tmp_path.iterdir()} == {engine.name}
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
    engine = built(exporter, network, tmp_path)
    raw = engine.read_bytes()
    engine.write_bytes(raw[: int(cut * len(raw))])
    with pytest.raises(DeviceError, match=engine.name):
        exporter.open(engine)


def test_a_model_that_is_none_cannot_be_built(exporter: Exporter, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(StageError, match=r"model\.onnx"):
        exporter.build(tmp_path / "model.onnx", tmp_path / f"engine{exporter.suffix}")


def test_an_op_nobody_knows_cannot_be_built(exporter: Exporter, tmp_path: Path) -> None:
    model = linear()
    model.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(StageError, match="NoSuchOp"):
        built(exporter, model, tmp_path)


def test_an_engine_depends_on_named_versions(exporter: Exporter) -> None:
    found = exporter.environment()
    assert found
    assert all(found.values())
    assert found == exporter.environment()


def test_an_unknown_runtime_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'tensor' is none of the engines: .*ort"):
        runtime("tensor", 1)


def test_the_threads_are_those_asked_for() -> None:
    assert runtime("ort", 3) == Ort(threads=3)


def test_onnx_runtime_runs_on_the_cpu_and_nothing_else(tmp_path: Path) -> None:
    engine = built(Ort(), linear(), tmp_path)
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
    engine = onnx.ModelProto.FromString(built(Ort(), network, tmp_path).read_bytes())
    assert "BatchNormalization" not in {node.op_type for node in engine.graph.node}
    assert len(engine.graph.node) <= len(network.graph.node)


def test_the_plain_network_is_the_graph_as_it_stands() -> None:
    plain = plain_network(linear().SerializeToString())
    assert plain(np.zeros((3, 2), np.float32)).tolist() == [[10, 20]] * 3
    with pytest.raises(StageError, match="cannot load the model"):
        plain_network(b"nonsense")
