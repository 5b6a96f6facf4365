"""ONNX Runtime on the CPU: the engine is the graph as ONNX Runtime optimised it, for this host
unless it is to be portable.
"""

from pathlib import Path
from typing import ClassVar

from exporters.board.library_calls import faults
from exporters.exporter import BuildFacts, Fitted, Prepared, Source
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import cpu_name, versions

try:
    from exporters.board.sessions.ort import (
        OrtSession,
        build_engine,
        layer_times_ms,
        open_engine,
    )
except ImportError as error:
    raise MissingExtra("onnxruntime", "ort") from error


class Ort(Fitted):
    """ONNX Runtime, CPU provider; what is optimised for one processor is so at build time, or for
    a portable engine each time it is opened.
    """

    suffix: ClassVar[str] = ".onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

    def prepared(self, source: Source) -> Prepared:
        # These need onnx, which running does not.
        from exporters.graph.int8 import Style
        from exporters.graph.precision import at_precision

        style = Style(unsigned_activations=True, quantised_bias=True)
        model, remarks = at_precision(source, self.precision, style)
        if self.precision == "fp16":
            remarks = (*remarks, "ONNX Runtime has no fp16 kernels for CPUs: computed at fp32")
        return Prepared(model.SerializeToString(), remarks)

    def build(self, source: Source, engine: Path) -> BuildFacts:
        from exporters.graph.canonical import canonical

        given = self.prepared(source)
        with faults(StageError, f"ONNX Runtime cannot build {source.model.name}"):
            build_engine(given.model, str(engine), self)
        # ONNX Runtime orders and names the nodes it adds anew in every process.
        engine.write_bytes(canonical(engine.read_bytes()))
        return BuildFacts(remarks=given.remarks)

    def open(self, engine: Path) -> OrtSession:
        with faults(DeviceError, f"ONNX Runtime cannot load {engine.name}"):
            return open_engine(str(engine), self)

    def layer_times_ms(self, engine: Path, batch: int) -> dict[str, float]:
        return layer_times_ms(str(engine), self, batch)

    def environment(self) -> dict[str, str]:
        found = versions(("onnxruntime",))
        return found if self.portable else {**found, "cpu": cpu_name()}
