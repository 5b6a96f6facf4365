"""fp16 and int8: written into the file, near the network, and refused where they cannot be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import Residual, trained
from onnx import helper
from onnx_graphs import Floats, feeds, model, ones
from torch import Tensor, nn

from exporters.exporter import Int8Format, Source, call_one, runtime
from exporters.graph.fp16 import LIMIT, activation_ranges, to_fp16
from exporters.graph.int8 import FEWEST, METHODS, to_int8
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import to_onnx
from exporters.parity import compare, require
from profiles.device import EngineOptions
from profiles.errors import ConfigError, StageError

UNSIGNED = Int8Format(unsigned_activations=True, quantised_bias=True)
SIGNED = Int8Format(unsigned_activations=False, quantised_bias=False)


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=False).model


def calibration(count: int = 16) -> Floats:
    return np.concatenate(feeds(1, 3, 8, 8, count=count, seed=5))


def scaled(factor: float) -> onnx.ModelProto:
    """y = (x * factor) * 1e-6."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["large"]),
        helper.make_node("Mul", ["large", "small"], ["y"]),
    ]
    weights = {"factor": np.array([factor], np.float32), "small": np.array([1e-3], np.float32)}
    return model(nodes, [1, 4], [1, 4], weights)


def test_fp16_is_half_the_size_and_near_the_network(network: onnx.ModelProto) -> None:
    half = to_fp16(network, feeds(1, 3, 8, 8))
    assert half.ByteSize() < 0.75 * network.ByteSize()
    floats = {t.data_type for t in half.graph.initializer if t.data_type != onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT16}
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    dense, candidate = (plain_network(m.SerializeToString()) for m in (network, half))
    found = compare(dense, candidate, feeds(1, 3, 8, 8, count=20, seed=3))
    require("fp16", found, "fp16")
    assert found.error > 1e-6, "nothing was rounded"


@pytest.mark.parametrize(("factor", "fits"), [(0.9, True), (1.1, False)])
def test_fp16_is_refused_where_an_activation_comes_near_its_largest_number(
    factor: float, fits: bool
) -> None:
    graph = scaled(factor * LIMIT)
    assert activation_ranges(graph, [ones(1, 4)])["large"] == pytest.approx(factor * LIMIT)
    if fits:
        assert to_fp16(graph, [ones(1, 4)])
        return
    with pytest.raises(StageError, match=r"fp16 could overflow: large reaches .*use fp32"):
        to_fp16(graph, [ones(1, 4)])


def test_fp16_is_refused_where_a_weight_is_larger_than_its_largest_number() -> None:
    with pytest.raises(StageError, match="fp16 could overflow: factor reaches 7e\\+04"):
        to_fp16(scaled(7e4), [ones(1, 4) * 1e-3])


@pytest.mark.parametrize("style", [UNSIGNED, SIGNED])
def test_int8_is_near_the_network_and_has_integer_weights(
    network: onnx.ModelProto, style: Int8Format
) -> None:
    found = to_int8(network, calibration(), style)
    assert found.method.partition(",")[0] in METHODS
    kinds = {tensor.data_type for tensor in found.model.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert (onnx.TensorProto.UINT8 in kinds) == style.unsigned_activations
    dense, candidate = (plain_network(m.SerializeToString()) for m in (network, found.model))
    parity = compare(dense, candidate, feeds(1, 3, 8, 8, count=20, seed=3))
    require("int8", parity, "int8")
    assert parity.error < 0.1
    assert found.error < 0.05


class Detector(nn.Module):
    """Boxes in 640 pixels and the scores of 6 classes, joined as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        scores = (4 * self.scores(x) - 6).sigmoid()
        return torch.cat([self.boxes(x).sigmoid() * 640, scores], 1)


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_scores_beside_boxes_survive_int8(engine: str, tmp_path: Path) -> None:
    """One range for both would round every score to 0, as the scale is 640 / 255."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        detector = Detector().eval()
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(detector, feeds(1, 3, 8, 8), opset=20, dynamic_batch=False).model, path)
    exporter = runtime(engine, EngineOptions(precision="int8"))
    exporter.build(Source(path, calibration(), lambda: detector), tmp_path / "engine")
    session = exporter.open(tmp_path / "engine")
    dense = plain_network(path.read_bytes())
    held = feeds(1, 3, 8, 8, count=16, seed=3)
    found = compare(dense, lambda feed: call_one(session, feed), held)
    require("int8", found, "int8")
    assert found.column_error < 0.2


def test_int8_without_a_quantised_bias_has_no_int32(network: onnx.ModelProto) -> None:
    for style in (UNSIGNED, SIGNED):
        kinds = {
            t.data_type for t in to_int8(network, calibration(), style).model.graph.initializer
        }
        assert (onnx.TensorProto.INT32 in kinds) == style.quantised_bias


def test_int8_needs_inputs_to_take_its_ranges_from(network: onnx.ModelProto) -> None:
    with pytest.raises(StageError, match=f"7 calibration inputs, at least {FEWEST} needed"):
        to_int8(network, calibration(7), UNSIGNED)


def test_quantising_prints_nothing(
    network: onnx.ModelProto, capsys: pytest.CaptureFixture[str]
) -> None:
    to_int8(network, calibration(), UNSIGNED)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_onnx_runtime_engine_has_the_precision_asked_for(
    precision: str, network: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(network.SerializeToString())
    source = Source(tmp_path / "model.onnx", calibration(), trained(Residual).eval)
    exporter = runtime("ort", EngineOptions(precision="int8" if precision == "int8" else "fp16"))
    facts = exporter.build(source, tmp_path / "engine.onnx")
    again = exporter.build(source, tmp_path / "again.onnx")
    assert facts == again
    raw = (tmp_path / "engine.onnx").read_bytes()
    assert raw == (tmp_path / "again.onnx").read_bytes()
    kinds = {tensor.data_type for tensor in onnx.ModelProto.FromString(raw).graph.initializer}
    assert (onnx.TensorProto.INT8 in kinds) == (precision == "int8")
    if precision == "fp16":
        assert "computed at fp32" in facts.remarks[0]
    else:
        assert "int8 ranges by" in facts.remarks[0]
        assert facts.remarks[1] == "4 of 6 layers with weights are computed in integers"


def test_a_precision_that_a_runtime_does_not_have_is_refused() -> None:
    pytest.importorskip("coremltools")
    with pytest.raises(ConfigError, match="int8 is none of this engine's: fp32, fp16"):
        runtime("coreml", EngineOptions(precision="int8"))
