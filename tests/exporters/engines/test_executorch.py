"""ExecuTorch: a real network keeps its answers, and the converter stays silent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import trained
from onnx_graphs import feeds
from torch import nn
from torchvision.models import mobilenet_v2

from exporters.exporter import Source, call_one
from profiles.errors import DeviceError

pytest.importorskip("executorch")
ExecuTorch = pytest.importorskip("exporters.engines.executorch").ExecuTorch


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained(mobilenet_v2)


@pytest.fixture(scope="module")
def source(network: nn.Module) -> Source:
    return Source(Path("model.onnx"), feeds(4, 3, 64, 64)[0], lambda: network)


@pytest.fixture(scope="module")
def engine(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("engine") / "engine.pte"
    ExecuTorch().build(source, path)
    return path


def test_the_same_network_gives_the_same_bytes_and_not_a_word(
    source: Source, engine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ExecuTorch().build(source, tmp_path / "again.pte")
    assert (tmp_path / "again.pte").read_bytes() == engine.read_bytes()
    ExecuTorch().open(engine)
    assert capfd.readouterr().out == ""


def test_another_batch_or_another_name_is_a_fault_of_the_device(engine: Path) -> None:
    session = ExecuTorch().open(engine)
    batch = np.zeros((2, 3, 64, 64), np.float32)
    with pytest.raises(DeviceError, match="cannot run"):
        call_one(session, batch)
    with pytest.raises(DeviceError, match="cannot run"):
        session.run({"no such input": batch[:1]})


def test_the_pool_of_threads_is_not_taken_from_an_open_engine(engine: Path) -> None:
    session = ExecuTorch(threads=1).open(engine)
    with pytest.raises(DeviceError, match=r"other than 2 threads"):
        ExecuTorch(threads=2).open(engine)
    assert np.isfinite(call_one(session, np.zeros((1, 3, 64, 64), np.float32))).all()
    del session
    two = ExecuTorch(threads=2).open(engine)
    assert np.isfinite(call_one(two, np.zeros((1, 3, 64, 64), np.float32))).all()


def test_it_says_what_xnnpack_does_not_run(source: Source, tmp_path: Path) -> None:
    class Arctangent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.atan(x)

    given = Source(source.model, source.calibration, Arctangent().eval)
    facts = ExecuTorch().build(given, tmp_path / "engine.pte")
    assert facts.remarks == ("XNNPACK leaves 1 to portable operators: aten.atan.default",)
    assert not ExecuTorch().build(source, tmp_path / "engine.pte").remarks
