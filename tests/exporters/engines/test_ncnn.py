"""What ncnn must keep beyond the contract of every runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import NETWORKS, Residual, trained
from onnx_graphs import Floats, feeds
from torch import Tensor, nn

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from exporters.board.archive import pack, unpack
from exporters.board.sessions.ncnn import NcnnSession
from exporters.engines.ncnn import Ncnn
from exporters.exporter import Source, call_one
from exporters.graph.to_onnx import to_onnx, torch_network
from exporters.parity import Parity, compare, require
from profiles.device import Precision
from profiles.errors import DeviceError, StageError

FILES = ("model.ncnn.param", "model.ncnn.bin", "shapes.json")


def built(
    network: nn.Module, folder: Path, precision: Precision = "fp32", size: int = 8
) -> tuple[Path, NcnnSession]:
    folder.mkdir(exist_ok=True)
    exporter = Ncnn(precision=precision)
    engine = folder / f"engine{exporter.suffix}"
    inputs = np.concatenate(feeds(1, 3, size, size, count=4))
    if precision == "fp16":
        model = to_onnx(network, feeds(1, 3, size, size), opset=20, dynamic_batch=True).model
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    exporter.build(Source(folder / "model.onnx", inputs, network.eval), engine)
    return engine, exporter.open(engine)


def parity(network: nn.Module, session: NcnnSession, size: int = 8) -> Parity:
    """On inputs that the build did not see."""

    def engine(feed: Floats) -> Floats:
        return call_one(session, feed)

    return compare(torch_network(network), engine, feeds(1, 3, size, size, count=8, seed=3))


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_engine_is_the_network_it_was_built_from(kind: type[nn.Module], tmp_path: Path) -> None:
    network = trained(kind)
    _, session = built(network, tmp_path)
    assert require("building", parity(network, session)).error < 1e-5


def test_fp16_weights_are_half_as_large_and_near_fp32(tmp_path: Path) -> None:
    network = trained(Residual)
    full, _ = built(network, tmp_path / "fp32")
    half, session = built(network, tmp_path / "fp16", "fp16")
    assert len(unpack(half, FILES)[1]) < 0.6 * len(unpack(full, FILES)[1])
    assert require("building", parity(network, session), "fp16").error > 0


def test_fp16_refuses_weights_that_it_cannot_hold(tmp_path: Path) -> None:
    network = trained(Residual)
    with torch.no_grad():
        network.get_parameter("fc.weight")[0, 0] = 1e5
    with pytest.raises(StageError, match="fp16 could overflow"):
        built(network, tmp_path, "fp16")
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_computes_as_asked_for(tmp_path: Path, precision: Precision) -> None:
    engine, _ = built(trained(Residual), tmp_path, precision)
    options = Ncnn(precision=precision, threads=3).open(engine).net.opt
    assert options.num_threads == 3
    assert not options.use_vulkan_compute
    assert not options.use_bf16_storage
    half = (options.use_fp16_packed, options.use_fp16_storage, options.use_fp16_arithmetic)
    assert set(half) == {precision == "fp16"}


def test_nothing_is_printed_and_nothing_left_in_the_current_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _, session = built(trained(Residual), tmp_path / "out")
    call_one(session, np.zeros((1, 3, 8, 8), np.float32))
    assert capfd.readouterr().out == ""
    assert not list((tmp_path / "here").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["engine.ncnn.zip"]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 4, 4), (1, 1), (3, 8, 8)])
def test_a_feed_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    _, session = built(trained(Residual), tmp_path)
    with pytest.raises(DeviceError, match="takes float32"):
        call_one(session, np.zeros(shape, np.float32))


class Maps(nn.Module):
    """Begins with a layer that works in place, and gives maps that ncnn pads in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (4, 2))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(nn.functional.relu(x))
        return maps


def test_maps_come_back_in_their_shape_and_the_feed_is_left_alone(tmp_path: Path) -> None:
    network = trained(Maps)
    _, session = built(network, tmp_path)
    (feed,) = feeds(1, 3, 8, 8, count=1)
    given = feed.copy()
    found = call_one(session, given)
    assert (given == feed).all()
    assert found.shape == (1, 4, 5, 7)
    np.testing.assert_allclose(found, torch_network(network)(feed), atol=1e-5)


class Special(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x.tanh()).mean((2, 3))


def test_an_op_without_a_layer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"model\.onnx: there is no layer for .*erfinv"):
        built(Special(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 100, -4])
def test_weights_cut_short_inside_a_whole_engine_are_a_fault_of_the_device(
    tmp_path: Path, keep: int
) -> None:
    engine, _ = built(trained(Residual), tmp_path)
    graph, weights, shapes = unpack(engine, FILES)
    engine.write_bytes(pack(dict(zip(FILES, (graph, weights[:keep], shapes), strict=True))))
    with pytest.raises(DeviceError, match=f"cannot load {engine.name}: .*bin is broken"):
        Ncnn().open(engine)
