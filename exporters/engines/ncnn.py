"""ncnn on the CPU: converted from torch by pnnx, for one image at a time."""

import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from exporters.base import Array, BuildFacts, Exporter, Source, TensorSpec
from exporters.foreign import faults
from exporters.packed import pack, unpack
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.host import versions
from profiles.spec import Spec

try:
    import ncnn
except ImportError as error:
    raise MissingExtra("ncnn", "ncnn") from error

GRAPH, WEIGHTS, SHAPES = "model.ncnn.param", "model.ncnn.bin", "shapes.json"


class Shapes(Spec):
    """What ncnn's files do not tell; both begin with the batch, which is 1."""

    input: tuple[PositiveInt, ...]
    output: tuple[PositiveInt, ...]


class NcnnSession:
    """A loaded net with one input and one output."""

    def __init__(self, net: ncnn.Net, shapes: Shapes) -> None:
        self.net = net
        self._shapes = shapes
        (self._input,) = net.input_names()
        (self._output,) = net.output_names()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec(self._input, "float32", self._shapes.input),)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        batch = feed[self._input]
        # It would read beyond a smaller array.
        if batch.shape != self._shapes.input or batch.dtype != np.float32:
            raise DeviceError(
                f"this ncnn engine takes float32 {list(self._shapes.input)}, "
                f"not {batch.dtype} {list(batch.shape)}"
            )
        extractor = self.net.create_extractor()
        # A Mat borrows the array's memory, and a layer may write into its input.
        extractor.input(self._input, ncnn.Mat(np.ascontiguousarray(batch[0])).clone())
        code, found = extractor.extract(self._output)
        if code != 0:
            raise DeviceError(f"ncnn failed with code {code}")
        return [np.array(found, np.float32).reshape(self._shapes.output)]


class Ncnn(Exporter):
    """ncnn, CPU; at fp16 the weights are, and the arithmetic where the processor has it."""

    suffix: ClassVar[str] = ".ncnn.zip"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")

    def build(self, source: Source, engine: Path) -> BuildFacts:
        try:
            import pnnx
        except ImportError as error:
            raise MissingExtra("pnnx", "ncnn") from error
        if self.precision == "fp16":
            # These need onnx, which running does not. What could overflow is refused.
            from exporters.fp16 import to_fp16
            from exporters.opener import open_onnx
            from exporters.parity import feeds_of

            to_fp16(open_onnx(source.model), feeds_of(source.calibration, False))
        with faults(StageError, f"ncnn cannot build {source.model.name}"):
            graph, weights, shapes = _converted(pnnx.EXEC_PATH, source, self.precision)
            session = NcnnSession(_loaded(graph, weights, self), shapes)
            session.run({session.inputs[0].name: source.calibration[:1]})
        files = {GRAPH: graph, WEIGHTS: weights, SHAPES: shapes.model_dump_json().encode()}
        engine.write_bytes(pack(files))
        return BuildFacts(layers=len(session.net.layers()), weights_bytes=len(weights))

    def open(self, engine: Path) -> NcnnSession:
        graph, weights, shapes = unpack(engine, (GRAPH, WEIGHTS, SHAPES))
        with faults(DeviceError, f"ncnn cannot load {engine.name}"):
            known = Shapes.model_validate_json(shapes)
            return NcnnSession(_loaded(graph, weights, self), known)

    def environment(self) -> dict[str, str]:
        return versions(("ncnn", "pnnx", "torch"))


def _converted(pnnx: str, source: Source, precision: Precision) -> tuple[bytes, bytes, Shapes]:
    """The network as ncnn's graph and weights. Raises StageError with pnnx's words."""
    import torch

    network, given = source.network(), torch.from_numpy(source.calibration[:1])
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the tracer warns of its own end, which none can mend
        shapes = Shapes(input=tuple(given.shape), output=tuple(network(given).shape))
        torch.jit.trace(network, given, check_trace=False).save(str(Path(folder) / "model.pt"))
        shape = ",".join(map(str, given.shape))
        options = [f"inputshape=[{shape}]f32", f"fp16={int(precision == 'fp16')}"]
        command = [pnnx, "model.pt", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise StageError(f"pnnx: {' '.join(done.stderr.split()[-30:])}")
        graph, weights = (Path(folder, name).read_bytes() for name in (GRAPH, WEIGHTS))
    kinds = {line.split()[0] for line in graph.decode().splitlines()[2:]}
    # What pnnx could not convert keeps its name in torch, "aten::sort" or "torch.sort".
    foreign = sorted(kind for kind in kinds if "." in kind or "::" in kind)
    if foreign:
        raise StageError(f"there is no layer for {', '.join(foreign)}")
    return graph, weights, shapes


def _loaded(graph: bytes, weights: bytes, exporter: Ncnn) -> ncnn.Net:
    """The net, from private files: in memory it would read on beyond weights cut short."""
    half = exporter.precision == "fp16"
    net = ncnn.Net()
    net.opt.num_threads = exporter.threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, GRAPH).write_bytes(graph)
        Path(folder, WEIGHTS).write_bytes(weights)
        for load, name in ((net.load_param, GRAPH), (net.load_model, WEIGHTS)):
            if load(str(Path(folder, name))) != 0:
                raise DeviceError(f"{name} is broken, or of another version of ncnn")
    return net
