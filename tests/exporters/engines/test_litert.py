"""LiteRT: a real network keeps its answers and its axes, and the converter stays silent."""

from pathlib import Path

import numpy as np
import pytest
from networks import trained
from onnx_graphs import feeds
from torch import nn
from torchvision.models import mobilenet_v2

from exporters.exporter import Source, call_one
from profiles.errors import DeviceError

pytest.importorskip("litert_torch")
LiteRt = pytest.importorskip("exporters.engines.litert").LiteRt


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained(mobilenet_v2)


@pytest.fixture(scope="module")
def source(network: nn.Module) -> Source:
    return Source(Path("model.onnx"), feeds(4, 3, 64, 64)[0], lambda: network)


@pytest.fixture(scope="module")
def engine(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("engine") / "engine.tflite"
    LiteRt().build(source, path)
    return path


def test_the_same_network_gives_the_same_bytes_and_not_a_word(
    source: Source, engine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    LiteRt().build(source, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == engine.read_bytes()
    LiteRt().open(engine)
    assert capfd.readouterr().out == ""


def test_another_batch_or_another_name_is_a_fault_of_the_device(engine: Path) -> None:
    session = LiteRt().open(engine)
    batch = np.zeros((2, 3, 64, 64), np.float32)
    with pytest.raises(DeviceError, match="cannot run"):
        call_one(session, batch)
    with pytest.raises(DeviceError, match="cannot run"):
        session.run({"no such input": batch[:1]})
