"""ncnn on the CPU: converted from torch by pnnx, for one image at a time."""

import json
import subprocess
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.archive import pack
from exporters.board.library_calls import library_errors_as
from exporters.exporter import BuildFacts, Exporter, Source
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import versions

if TYPE_CHECKING:
    from exporters.board.sessions.ncnn import NcnnSession, Shapes


class Ncnn(Exporter):
    """ncnn, CPU; at fp16 the weights are, and the arithmetic where the processor has it."""

    suffix: ClassVar[str] = ".ncnn.zip"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("ncnn",)

    @classmethod
    def import_library(cls) -> None:
        try:
            import exporters.board.sessions.ncnn  # noqa: F401
        except ImportError as error:
            raise MissingExtra("ncnn", "ncnn") from error

    def build(self, source: Source, engine: Path) -> BuildFacts:
        from exporters.board.sessions.ncnn import GRAPH, SHAPES, WEIGHTS, loaded

        try:
            import pnnx
        except ImportError as error:
            raise MissingExtra("pnnx", "ncnn") from error
        if self.precision == "fp16":
            # These need onnx, which running does not. What could overflow is refused.
            from exporters.graph.fp16 import to_fp16
            from exporters.graph.open import open_onnx
            from exporters.parity import feeds_of

            to_fp16(open_onnx(source.model), feeds_of(source.calibration, False))
        with library_errors_as(StageError, f"ncnn cannot build {source.model.name}"):
            graph, weights, shapes = _converted(pnnx.EXEC_PATH, source, self.precision)
            session = loaded(graph, weights, shapes, self.threads, self.precision)
            session.run({session.inputs[0].name: source.calibration[:1]})
        shapes_json = json.dumps(asdict(shapes), separators=(",", ":")).encode()
        engine.write_bytes(pack({GRAPH: graph, WEIGHTS: weights, SHAPES: shapes_json}))
        return BuildFacts(layers=len(session.net.layers()), weights_bytes=len(weights))

    def open(self, engine: Path) -> "NcnnSession":
        from exporters.board.sessions.ncnn import open_engine

        with library_errors_as(DeviceError, f"ncnn cannot load {engine.name}"):
            return open_engine(str(engine), self)

    def environment(self) -> dict[str, str]:
        return versions(("ncnn", "pnnx", "torch"))


def _converted(pnnx: str, source: Source, precision: Precision) -> tuple[bytes, bytes, "Shapes"]:
    """The network as ncnn's graph and weights. Raises StageError with pnnx's words."""
    import torch

    from exporters.board.sessions.ncnn import GRAPH, WEIGHTS, Shapes

    network, given = source.network(), torch.from_numpy(source.calibration[:1])
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the tracer warns of its own end, which none can mend
        shapes = Shapes(tuple(given.shape), tuple(network(given).shape))
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
    unsupported = sorted(kind for kind in kinds if "." in kind or "::" in kind)
    if unsupported:
        raise StageError(f"there is no layer for {', '.join(unsupported)}")
    return graph, weights, shapes
