"""ONNX Runtime on the CPU: the engine is the graph as ONNX Runtime optimised it, for this host
unless it is to be portable.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from exporters.base import Array, BuildFacts, Exporter, FloatArray, Source, TensorSpec, call_one
from exporters.foreign import faults
from exporters.parity import Network
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.host import cpu_name, versions

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtra("onnxruntime", "ort") from error

PROVIDER = "CPUExecutionProvider"
Level = onnxruntime.GraphOptimizationLevel
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
}


class OrtSession:
    """A loaded graph on one provider, and on no other."""

    def __init__(self, session: onnxruntime.InferenceSession, provider: str = PROVIDER) -> None:
        # It adds the CPU to every list; a GPU's session forbids that any node falls back to it.
        if session.get_providers() not in ([provider], [provider, PROVIDER]):
            raise DeviceError(f"ONNX Runtime took {session.get_providers()}, not {provider}")
        self._session = session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                value.name,
                NUMPY_TYPES[value.type],
                tuple(d if isinstance(d, int) else None for d in value.shape),
            )
            for value in self._session.get_inputs()
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(output) for output in self._session.run(None, dict(feed))]


class Ort(Exporter):
    """ONNX Runtime, CPU provider; what is optimised for one processor is so at build time, or for
    a portable engine each time it is opened.
    """

    suffix: ClassVar[str] = ".onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

    def build(self, source: Source, engine: Path) -> BuildFacts:
        # These need onnx, which running does not.
        from exporters.canonical import canonical
        from exporters.int8 import Style
        from exporters.precision import at_precision

        style = Style(unsigned_activations=True, quantised_bias=True)
        model, remarks = at_precision(source, self.precision, style)
        level = Level.ORT_ENABLE_EXTENDED if self.portable else Level.ORT_ENABLE_ALL
        options = _options(self.threads, level)
        options.optimized_model_filepath = str(engine)
        with faults(StageError, f"ONNX Runtime cannot build {source.model.name}"):
            raw = model.SerializeToString()
            onnxruntime.InferenceSession(raw, options, providers=[PROVIDER])
        # ONNX Runtime orders and names the nodes it adds anew in every process.
        engine.write_bytes(canonical(engine.read_bytes()))
        if self.precision == "fp16":
            remarks = (*remarks, "ONNX Runtime has no fp16 kernels for CPUs: computed at fp32")
        return BuildFacts(remarks=remarks)

    def open(self, engine: Path) -> OrtSession:
        # What is optimised already stays so: doing it again costs load time and triples the peak.
        level = Level.ORT_ENABLE_ALL if self.portable else Level.ORT_DISABLE_ALL
        with faults(DeviceError, f"ONNX Runtime cannot load {engine.name}"):
            options = _options(self.threads, level)
            session = onnxruntime.InferenceSession(str(engine), options, providers=[PROVIDER])
        return OrtSession(session)

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
        options = _options(1, Level.ORT_DISABLE_ALL)
        return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])


def _options(threads: int, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3  # errors only: it warns that ALL is for this host, as asked
    return options
