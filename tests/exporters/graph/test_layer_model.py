"""One layer as a model of its own: what torch's layer answers, as often as it is there."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from exporters.board.session import call_on_noise
from exporters.engines.ort import Ort
from exporters.exporter import PreparedModel
from exporters.graph.layer_model import FEWEST, MOST, copies_of, side_by_side
from pipeline.network.layer_kinds import filter_bank
from pipeline.network.layer_shapes import layer_shapes

LAYERS = {
    "plain": (nn.Conv2d(6, 8, 3, padding=1), (6, 9, 7)),
    "strided": (nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), 2), (6, 13, 17)),
    "same": (nn.Conv2d(6, 8, (3, 5), padding="same"), (6, 9, 7)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), (6, 9, 7)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 9, 7)),
    "one axis": (nn.Conv1d(6, 8, 5), (6, 20)),
    "transposed": (nn.ConvTranspose2d(6, 8, 3, 2, 1, 1), (6, 9, 7)),
    "vectors": (nn.Linear(6, 8), (6,)),
    "tokens": (nn.Linear(6, 8), (5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_model_answers_as_its_layers_together(name: str) -> None:
    layer, size = LAYERS[name]
    inputs = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    ((shape,),) = layer_shapes(nn.Sequential(layer), inputs[:1]).values()
    model = side_by_side(shape, 2, 3)
    onnx.checker.check_model(model)
    weights = [numpy_helper.to_array(one) for one in model.graph.initializer][::2]
    wanted = torch.zeros(())
    kind = filter_bank(layer)
    with torch.no_grad():
        for weight in weights:
            given = torch.from_numpy(weight.copy())
            given = given.T if shape.kind == "linear" else given
            assert given.shape == kind.weight.shape
            kind.weight.copy_(given)
            assert kind.bias is not None
            kind.bias.zero_()
            wanted = wanted + layer(inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": inputs.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_at_int8_every_layer_that_the_runtime_has_in_integers_is_in_integers(
    name: str, tmp_path: Path
) -> None:
    layer, size = LAYERS[name]
    ((shape,),) = layer_shapes(nn.Sequential(layer), torch.zeros(1, *size)).values()
    ort = Ort(precision="int8")
    model = side_by_side(shape, 1, 3, ort.INT8)
    onnx.checker.check_model(model)
    path = tmp_path / "engine.onnx"
    facts = ort.build_prepared(PreparedModel(model.SerializeToString(), ()), path)
    integer = 0 if name == "transposed" else 3
    assert facts.remarks == (f"{integer} of 3 layers with weights are computed in integers",)
    call_on_noise(ort.open(path), 1)()


def test_the_widths_of_a_layer_are_changed_side_by_side() -> None:
    def at(name: str, side: str, channels: int) -> tuple[int, int, int]:
        layer, size = LAYERS[name]
        ((shape,),) = layer_shapes(nn.Sequential(layer), torch.zeros(1, *size)).values()
        found = shape.at("out" if side == "out" else "in", channels)
        return found.inputs, found.outputs, found.groups

    assert at("plain", "out", 4) == (6, 4, 1)
    assert at("plain", "in", 4) == (4, 8, 1)
    assert at("grouped", "in", 4) == (4, 8, 2)
    assert at("depthwise", "out", 4) == (4, 4, 4)


def test_a_small_layer_is_timed_more_often_than_a_large_one() -> None:
    small, large = nn.Conv2d(4, 4, 1), nn.Conv2d(64, 64, 3)
    shapes = layer_shapes(nn.Sequential(small), torch.zeros(1, 4, 8, 8))
    assert shapes["0"][0].macs() == 4 * 4 * 64
    assert copies_of(shapes["0"][0]) == MOST
    shapes = layer_shapes(nn.Sequential(large), torch.zeros(1, 64, 56, 56))
    assert copies_of(shapes["0"][0]) == FEWEST
