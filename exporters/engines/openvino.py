"""OpenVINO on the CPU: the engine is its own format, written for no particular host."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from exporters.base import Array, BuildFacts, Exporter, Source, TensorSpec
from exporters.foreign import faults
from exporters.packed import pack, unpack
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.host import versions

# As it is imported OpenVINO reports its use over the network, from a fork of the process, unless
# this package is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
except ImportError as error:
    raise MissingExtra("openvino", "openvino") from error

DEVICE = "CPU"
GRAPH, WEIGHTS = "model.xml", "model.bin"


class OpenVinoSession:
    """A compiled model on the CPU and nothing else."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        if compiled.get_property("EXECUTION_DEVICES") != [DEVICE]:
            found = compiled.get_property("EXECUTION_DEVICES")
            raise DeviceError(f"OpenVINO took {found}, not {DEVICE}")
        self.compiled = compiled
        self._request = compiled.create_infer_request()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                port.get_any_name(),
                str(port.get_element_type().to_dtype()),
                tuple(None if d.is_dynamic else d.get_length() for d in port.get_partial_shape()),
            )
            for port in self.compiled.inputs
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        found = self._request.infer(dict(feed))  # copies, unless it is asked to share
        return [np.asarray(found[port]) for port in self.compiled.outputs]


class OpenVino(Exporter):
    """OpenVINO, CPU device, one stream; the engine's types are those of the computation."""

    suffix: ClassVar[str] = ".openvino.zip"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

    def build(self, source: Source, engine: Path) -> BuildFacts:
        # These need onnx, which running does not.
        from exporters.int8 import Style
        from exporters.precision import at_precision

        style = Style(unsigned_activations=True, quantised_bias=False)
        model, remarks = at_precision(source, self.precision, style)
        with faults(StageError, f"OpenVINO cannot build {source.model.name}"):
            graph, weights = _converted(model.SerializeToString())
            _compiled(graph, weights, self.threads)  # an op may be read and yet have no kernel
        engine.write_bytes(pack({GRAPH: graph, WEIGHTS: weights}))
        return BuildFacts(weights_bytes=len(weights), remarks=remarks)

    def open(self, engine: Path) -> OpenVinoSession:
        graph, weights = unpack(engine, (GRAPH, WEIGHTS))
        with faults(DeviceError, f"OpenVINO cannot load {engine.name}"):
            return OpenVinoSession(_compiled(graph, weights, self.threads))

    def environment(self) -> dict[str, str]:
        # ONNX Runtime writes the fp16 and int8 models that OpenVINO is given.
        return versions(("openvino", "onnxruntime"))


def _converted(model: bytes) -> tuple[bytes, bytes]:
    """A serialised ONNX model as graph and weights in OpenVINO's format."""
    network = openvino.Core().read_model(model=model)
    # It numbers nodes through the life of a process, and orders the file by their names.
    for index, node in enumerate(network.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{index}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        # It saves weights as fp16 unless it is told not to.
        openvino.save_model(network, str(path), compress_to_fp16=False)
        return path.read_bytes(), path.with_name(WEIGHTS).read_bytes()


def _compiled(graph: bytes, weights: bytes, threads: int) -> openvino.CompiledModel:
    core = openvino.Core()
    options = {
        # Left alone, it computes in bf16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(core.read_model(model=graph, weights=weights), DEVICE, options)
