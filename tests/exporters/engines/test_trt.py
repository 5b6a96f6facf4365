"""TensorRT: what its builder is asked for and tells, and what is refused without its GPU.

Engines are built here and run nowhere: the tests of `Cuda` and of sessions need a GPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import pytest
from networks import Residual, trained
from onnx import helper
from onnx_graphs import feeds, model
from torch import Tensor, nn

from exporters.board.trt_library import load_tensorrt
from exporters.exporter import BuildFacts, Source, runtime
from exporters.graph.to_onnx import to_onnx
from profiles.device import EngineOptions, Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine import gpu
from profiles.machine.gpu import Gpu, gpu_of

try:
    RTX = hasattr(load_tensorrt(), "ComputeCapability")
except MissingExtra as missing:
    pytest.skip(str(missing), allow_module_level=True)
if not RTX:
    pytest.skip("TensorRT builds only on the GPU it builds for", allow_module_level=True)

no_gpu = pytest.mark.skipif(gpu_of(None) is not None, reason="there is a GPU")
SIZE = 16


class Wide(nn.Module):
    """A residual network of 64 channels, whose weights outweigh the rest of an engine."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.convs = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(6))
        self.relu = nn.ReLU()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        for conv in self.convs:
            x = self.relu(conv(x) + x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def saved(network: onnx.ModelProto, folder: Path) -> Source:
    path = folder / "model.onnx"
    path.write_bytes(network.SerializeToString())
    shape = [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim[1:]]
    inputs = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    return Source(path, inputs, lambda: trained(Wide))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """A network of which the batch is free, and one of which it is 1."""
    return {
        name: saved(
            to_onnx(trained(Wide), feeds(1, 3, SIZE, SIZE), opset=20, dynamic_batch=free).model,
            tmp_path_factory.mktemp(name),
        )
        for name, free in {"dynamic": True, "static": False}.items()
    }


class Build(Protocol):
    """An engine's bytes and facts."""

    def __call__(
        self, source: Source, precision: Precision = "fp32", compute_capability: str = "8.6"
    ) -> tuple[bytes, BuildFacts]: ...


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def run(
        source: Source, precision: Precision = "fp32", compute_capability: str = "8.6"
    ) -> tuple[bytes, BuildFacts]:
        engine = tmp_path / f"{precision}-{compute_capability}.engine"
        facts = runtime(
            "trt", EngineOptions(precision=precision, compute_capability=compute_capability)
        ).build(source, engine)
        return engine.read_bytes(), facts

    return run


@pytest.mark.parametrize("batch", ["static", "dynamic"])
@pytest.mark.parametrize("capability", ["8.6", "12.0"])
def test_an_engine_is_built_for_a_gpu_that_is_not_here(
    sources: dict[str, Source], build: Build, batch: str, capability: str
) -> None:
    engine, facts = build(sources[batch], compute_capability=capability)
    assert engine.startswith(b"vtrt")
    assert facts.layers is not None
    assert 7 <= facts.layers <= 14  # a convolution is one kernel; norms and additions are in it


def test_a_free_batch_takes_the_memory_of_its_largest(
    sources: dict[str, Source], build: Build
) -> None:
    one, eight = (build(sources[batch])[1].activation_bytes for batch in ("static", "dynamic"))
    assert one is not None
    assert eight is not None
    map_of_64 = 64 * SIZE * SIZE * 4
    assert one >= map_of_64
    assert eight - one >= 6 * map_of_64


def test_the_facts_are_those_of_the_network(sources: dict[str, Source], build: Build) -> None:
    _, facts = build(sources["static"])
    parameters = sum(one.numel() for one in trained(Wide).parameters())
    assert facts.weights_bytes == pytest.approx(4 * parameters, rel=0.05)
    assert facts.remarks == ()


def test_fp16_halves_the_weights(sources: dict[str, Source], build: Build) -> None:
    single, facts32 = build(sources["static"])
    half, facts16 = build(sources["static"], "fp16")
    assert len(half) < len(single)
    assert facts32.weights_bytes is not None
    assert facts16.weights_bytes == pytest.approx(facts32.weights_bytes / 2, rel=0.05)


def test_int8_builds_and_says_where_its_ranges_come_from(
    sources: dict[str, Source], build: Build
) -> None:
    _, facts = build(sources["static"], "int8")
    _, single = build(sources["static"])
    assert facts.weights_bytes is not None
    assert single.weights_bytes is not None
    # A quarter, but for the first and the last layer where they stay at fp32.
    assert facts.weights_bytes < 0.35 * single.weights_bytes
    assert any("int8 ranges by" in remark for remark in facts.remarks)


def test_the_same_network_gives_the_same_bytes(sources: dict[str, Source], build: Build) -> None:
    assert build(sources["static"]) == build(sources["static"])


def test_the_same_network_with_a_free_batch_gives_the_same_facts(
    sources: dict[str, Source], build: Build
) -> None:
    # Not always the same bytes: TensorRT-RTX 1.7 names its constants differently now and then.
    (first, facts), (second, again) = build(sources["dynamic"]), build(sources["dynamic"])
    assert facts == again
    assert len(first) == len(second)


def test_facts_of_one_build_are_not_those_of_the_next(
    sources: dict[str, Source], build: Build, tmp_path: Path
) -> None:
    small = to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=False).model
    expected = build(saved(small, tmp_path))[1]
    build(sources["static"])
    assert build(saved(small, tmp_path))[1] == expected


def test_an_op_that_tensorrt_lacks_is_named(build: Build, tmp_path: Path) -> None:
    det = model([helper.make_node("Det", ["x"], ["y"])], [1, 3, 3], [1])
    with pytest.raises(StageError, match=r"TensorRT cannot build .*: .*Det.*UNSUPPORTED_NODE"):
        build(saved(det, tmp_path))
    assert not list(tmp_path.glob("*.engine"))


def test_what_tensorrt_parses_but_cannot_build_is_told_in_its_words(
    sources: dict[str, Source], build: Build
) -> None:
    with pytest.raises(
        StageError, match=r"TensorRT cannot build .*: .*Turing.*FP32 GEMM is not supported"
    ):
        build(sources["static"], compute_capability="7.5")


@pytest.mark.parametrize("batch", ["batch", 1])
def test_only_the_batch_may_be_free(build: Build, tmp_path: Path, batch: str | int) -> None:
    free = model([helper.make_node("Relu", ["x"], ["y"])], [batch, "free"], [batch, "free"])
    with pytest.raises(StageError, match="only the batch of x may be free"):
        build(saved(free, tmp_path))


def test_a_capability_that_rtx_does_not_know_is_answered_with_those_it_knows(
    sources: dict[str, Source], build: Build
) -> None:
    with pytest.raises(StageError, match=r"not build for 8\.7, only for .*SM86"):
        build(sources["static"], compute_capability="8.7")


@no_gpu
def test_without_gpu_the_profile_has_to_name_one(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="device profile must name its compute_capability"):
        runtime("trt").build(sources["static"], tmp_path / "x.engine")


@no_gpu
def test_without_gpu_the_needed_one_is_named(
    sources: dict[str, Source], build: Build, tmp_path: Path
) -> None:
    exporter = runtime("trt", EngineOptions(compute_capability="8.6"))
    needed = "needs an NVIDIA GPU of compute capability 8.6; there is none here"
    assert exporter.unavailable_reason() == f"running it {needed}"
    assert (
        runtime("trt").unavailable_reason() == "running it needs an NVIDIA GPU; there is none here"
    )
    assert exporter.environment()["gpu"] == "none"
    path = tmp_path / "good.engine"
    path.write_bytes(build(sources["static"])[0])
    with pytest.raises(DeviceError, match=rf"good\.engine.*{needed}"):
        exporter.open(path)


def test_only_the_gpu_that_was_asked_for_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    here = (Gpu(0, "one", "8.6"), Gpu(1, "two", "12.0"))
    monkeypatch.setattr(gpu, "gpus", lambda: here)
    assert gpu_of("12.0") == here[1]
    assert gpu_of(None) == here[0]
    assert gpu_of("8.9") is None
    assert runtime("trt", EngineOptions(compute_capability="8.6")).unavailable_reason() == ""
    assert "8.9" in runtime("trt", EngineOptions(compute_capability="8.9")).unavailable_reason()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], r"has \d+ bytes of \d+"),
        (lambda raw: raw[:63], "no engine"),
        (lambda raw: raw + b"\0", r"has \d+ bytes of \d+"),
        (lambda raw: b"ftrt" + raw[4:], "no engine"),
        (lambda raw: b"", "is empty"),
    ],
)
def test_a_damaged_engine_is_refused_before_tensorrt_reads_it(
    sources: dict[str, Source],
    build: Build,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    path = tmp_path / "damaged.engine"
    path.write_bytes(damage(build(sources["static"])[0]))
    with pytest.raises(DeviceError, match=rf"damaged\.engine .*{message}"):
        runtime("trt", EngineOptions(compute_capability="8.6")).open(path)
