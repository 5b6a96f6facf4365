"""ONNX Runtime on the CPU: the engine is the graph as ONNX Runtime optimised it, for this host
unless it is to be portable.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.library_calls import library_errors_as
from exporters.exporter import (
    BuildFacts,
    HostFittedExporter,
    Int8Format,
    PreparedModel,
    Source,
    integer_layers,
)
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import cpu_name, versions

if TYPE_CHECKING:
    from exporters.board.sessions.ort import OrtSession

INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
"""ONNX Runtime's operators that compute a layer with weights in integers."""
WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Parts of the names of all its operators that compute a layer with weights."""


class Ort(HostFittedExporter):
    """ONNX Runtime, CPU provider; what is optimised for one processor is so at build time, or for
    a portable engine each time it is opened.
    """

    suffix: ClassVar[str] = ".onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    TIMES_LAYERS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    INT8: ClassVar[Int8Format] = Int8Format(unsigned_activations=True, quantised_bias=True)
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu")

    @classmethod
    def import_library(cls) -> None:
        try:
            import exporters.board.sessions.ort  # noqa: F401
        except ImportError as error:
            raise MissingExtra("onnxruntime", "ort") from error

    def prepare(self, source: Source) -> PreparedModel:
        # This needs onnx, which running does not.
        from exporters.graph.precision import at_precision

        found = at_precision(source, self.precision, self.INT8)
        if self.precision != "fp16":
            return found
        remark = "ONNX Runtime has no fp16 kernels for CPUs: computed at fp32"
        return replace(found, remarks=(*found.remarks, remark))

    def build_prepared(self, prepared: PreparedModel, engine: Path) -> BuildFacts:
        # These need onnx, which running does not.
        import onnx

        from exporters.board.sessions.ort import build_engine
        from exporters.graph.canonical import canonical
        from exporters.graph.node_names import kernel_names

        with library_errors_as(StageError, f"ONNX Runtime cannot build {engine.name}"):
            build_engine(prepared.model, str(engine), self)
        # ONNX Runtime orders and names the nodes it adds anew in every process.
        raw = engine.read_bytes()
        kernels, model = map(onnx.ModelProto.FromString, (raw, prepared.model))
        content = canonical(raw, kernel_names(kernels, model))
        engine.write_bytes(content)
        counted = _integer_layers(content) if self.precision == "int8" else ()
        return BuildFacts(remarks=(*prepared.remarks, *counted))

    def open(self, engine: Path) -> "OrtSession":
        from exporters.board.sessions.ort import open_engine

        with library_errors_as(DeviceError, f"ONNX Runtime cannot load {engine.name}"):
            return open_engine(str(engine), self)

    def layer_times_ms(self, engine: Path, batch: int) -> dict[str, float]:
        from exporters.board.sessions.ort import layer_times_ms

        return layer_times_ms(str(engine), self, batch)

    def environment(self) -> dict[str, str]:
        found = versions(("onnxruntime",))
        return found if self.portable else {**found, "cpu": cpu_name()}


def _integer_layers(engine: bytes) -> tuple[str]:
    """How many of the layers with weights ONNX Runtime fused with their Q and DQ, as a remark."""
    import onnx

    operators = [node.op_type for node in onnx.ModelProto.FromString(engine).graph.node]
    integer = sum(operator in INTEGER for operator in operators)
    other = sum(any(kind in operator for kind in WEIGHTED) for operator in operators) - integer
    return (integer_layers(integer, integer + other),)
