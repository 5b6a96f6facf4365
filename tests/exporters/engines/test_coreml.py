"""Core ML: the package has the network's layers, at the precision asked for."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from networks import Residual, trained
from onnx_graphs import feeds
from torch import nn
from torchvision.models import mobilenet_v2

from exporters.exporter import Source
from profiles.device import Precision
from profiles.errors import StageError

coremltools = pytest.importorskip("coremltools")
coreml = pytest.importorskip("exporters.engines.coreml")


@pytest.fixture(scope="module")
def source() -> Source:
    network = trained(mobilenet_v2)
    return Source(Path("model.onnx"), feeds(4, 3, 64, 64)[0], lambda: network)


@pytest.fixture
def small() -> Source:
    network = trained(Residual)
    return Source(Path("model.onnx"), feeds(4, 3, 8, 8)[0], lambda: network)


def test_mobilenet_keeps_its_layers_and_fp16_halves_its_weights(
    source: Source, tmp_path: Path
) -> None:
    parameters = sum(
        layer.weight.numel()
        for layer in source.network().modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    )
    sizes: tuple[tuple[Precision, int], ...] = (("fp32", 4), ("fp16", 2))
    for precision, size in sizes:
        engine = tmp_path / f"{precision}.mlpackage.zip"
        facts = coreml.CoreMl(precision=precision).build(source, engine)
        assert facts.weights_bytes == pytest.approx(size * parameters, rel=0.02)
        with zipfile.ZipFile(engine) as archive:
            archive.extractall(tmp_path / precision)
        package = tmp_path / precision / coreml.PACKAGE
        description = coremltools.utils.load_spec(str(package)).description
        (given,), (answer,) = description.input, description.output
        float32 = given.type.multiArrayType.FLOAT32
        assert list(given.type.multiArrayType.shape) == [1, 3, 64, 64]
        assert list(answer.type.multiArrayType.shape) == [1, 1000]
        assert given.type.multiArrayType.dataType == float32
        assert answer.type.multiArrayType.dataType == float32


def test_the_manifest_lists_the_program_and_its_weights(small: Source, tmp_path: Path) -> None:
    engine = tmp_path / "engine.mlpackage.zip"
    coreml.CoreMl().build(small, engine)
    with zipfile.ZipFile(engine) as archive:
        manifest = json.loads(archive.read(coreml.MANIFEST))
    assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
    assert len(manifest["itemInfoEntries"]) == 2


def test_a_program_without_a_layer_of_the_network_is_refused(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreml, "WEIGHTED", ("conv",))
    with pytest.raises(StageError, match=r"model\.onnx: it has 5 .* not 6"):
        coreml.CoreMl().build(small, tmp_path / "engine.mlpackage.zip")
    assert not list(tmp_path.iterdir())


def test_a_program_for_another_input_is_refused(small: Source, tmp_path: Path) -> None:
    coreml.CoreMl().build(small, tmp_path / "engine.mlpackage.zip")
    with zipfile.ZipFile(tmp_path / "engine.mlpackage.zip") as archive:
        archive.extractall(tmp_path)
    program = coremltools.utils.load_spec(str(tmp_path / coreml.PACKAGE))
    traced = torch.jit.trace(nn.Identity(), torch.zeros(1))
    with pytest.raises(StageError, match=r"its input is \(1, 3, 8, 8\), not \(1, 3, 9, 9\)"):
        coreml._verified(program, traced, (1, 3, 9, 9))
