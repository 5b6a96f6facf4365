"""ONNX Runtime on the CPU: the engine is the graph as ONNX Runtime optimised it, for this host
unless it is to be portable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from exporters.arrays import Array, FloatArray
from exporters.base import BuildFacts, Fitted, Prepared, Source, call_one
from exporters.foreign import faults
from exporters.parity import Network
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine import cpu_name, versions

try:
    import onnxruntime

    from exporters.sessions.ort import (
        PROVIDER,
        Level,
        OrtSession,
        build_engine,
        layer_times_ms,
        open_engine,
        options_of,
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
        from exporters.int8 import Style
        from exporters.precision import at_precision

        style = Style(unsigned_activations=True, quantised_bias=True)
        model, remarks = at_precision(source, self.precision, style)
        if self.precision == "fp16":
            remarks = (*remarks, "ONNX Runtime has no fp16 kernels for CPUs: computed at fp32")
        return Prepared(model.SerializeToString(), remarks)

    def build(self, source: Source, engine: Path) -> BuildFacts:
        from exporters.canonical import canonical

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


def plain_network(model: bytes) -> Network:
    """The reference for parity: a serialised model, run with every optimisation off."""
    session = OrtSession(_plain(model))

    def network(batch: FloatArray) -> FloatArray:
        return call_one(session, batch)

    return network


def plain_outputs(model: bytes) -> Callable[[FloatArray], dict[str, Array]]:
    """The same, with every output by its name."""
    session = _plain(model)
    name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def network(batch: FloatArray) -> dict[str, Array]:
        return dict(zip(names, session.run(None, {name: batch}), strict=True))

    return network


def _plain(model: bytes) -> onnxruntime.InferenceSession:
    with faults(StageError, "ONNX Runtime cannot load the model"):
        options = options_of(1, Level.ORT_DISABLE_ALL)
        return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
