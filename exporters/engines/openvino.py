"""OpenVINO on the CPU: the engine is its own format, written for no particular host."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.archive import pack
from exporters.board.library_calls import library_errors_as
from exporters.exporter import (
    BuildFacts,
    Int8Format,
    OnnxExporter,
    PreparedModel,
    Source,
    integer_layers,
)
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import versions

if TYPE_CHECKING:
    from openvino import CompiledModel

    from exporters.board.sessions.openvino import OpenVinoSession

INT8 = Int8Format(unsigned_activations=True, quantised_bias=False)

WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""OpenVINO's kinds of kernels that compute a layer with weights."""
INTEGER = ("u8", "i8")
"""The precisions of kernels that compute in integers."""


class OpenVino(OnnxExporter):
    """OpenVINO, CPU device, one stream; the engine's types are those of the computation."""

    suffix: ClassVar[str] = ".openvino.zip"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("openvino",)

    @classmethod
    def import_library(cls) -> None:
        try:
            import exporters.board.sessions.openvino  # noqa: F401
        except ImportError as error:
            raise MissingExtra("openvino", "openvino") from error

    def prepare(self, source: Source) -> PreparedModel:
        # This needs onnx, which running does not.
        from exporters.graph.precision import at_precision

        return at_precision(source, self.precision, INT8)

    def build_prepared(self, prepared: PreparedModel, engine: Path) -> BuildFacts:
        from exporters.board.sessions.openvino import GRAPH, WEIGHTS, compiled

        with library_errors_as(StageError, f"OpenVINO cannot build {engine.name}"):
            graph, weights = _converted(prepared.model)
            # An op may be read and yet have no kernel.
            running = compiled(graph, weights, self.threads)
            counted = _integer_layers(running) if self.precision == "int8" else ()
        engine.write_bytes(pack({GRAPH: graph, WEIGHTS: weights}))
        remarks = (*prepared.remarks, *counted)
        return BuildFacts(weights_bytes=len(weights), remarks=remarks)

    def open(self, engine: Path) -> "OpenVinoSession":
        from exporters.board.sessions.openvino import open_engine

        with library_errors_as(DeviceError, f"OpenVINO cannot load {engine.name}"):
            return open_engine(str(engine), self)

    def layer_times_ms(self, engine: Path, batch: int) -> dict[str, float]:
        from exporters.board.sessions.openvino import layer_times_ms

        return layer_times_ms(str(engine), self, batch)

    def environment(self) -> dict[str, str]:
        # ONNX Runtime writes the fp16 and int8 models that OpenVINO is given.
        return versions(("openvino", "onnxruntime"))


def _converted(model: bytes) -> tuple[bytes, bytes]:
    """A serialised ONNX model as graph and weights in OpenVINO's format."""
    # Not before the session's module, which knows what has to be done first.
    import onnx
    import openvino

    from exporters.board.sessions.openvino import GRAPH, WEIGHTS, WITHOUT_BIAS

    network = openvino.Core().read_model(model=model)
    graph = onnx.ModelProto.FromString(model).graph
    names = {node.name: node.name for node in graph.node}
    # What gives an output bears its name.
    names |= {name: node.name for node in graph.node for name in node.output}
    # It numbers its own nodes through the life of a process, and orders the file by their names.
    for index, node in enumerate(network.get_ordered_ops()):
        name = node.get_friendly_name()
        if WITHOUT_BIAS.sub("", name) not in names:
            name = f"{node.get_type_name()}_{index}"
        node.set_friendly_name(names.get(name, name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        # It saves weights as fp16 unless it is told not to.
        openvino.save_model(network, str(path), compress_to_fp16=False)
        return path.read_bytes(), path.with_name(WEIGHTS).read_bytes()


def _integer_layers(running: "CompiledModel") -> tuple[str]:
    """How many of the layers with weights OpenVINO computes in integers, as a remark."""
    facts = [node.get_rt_info() for node in running.get_runtime_model().get_ordered_ops()]
    kinds = [
        one["runtimePrecision"].astype(str)
        for one in facts
        if one["layerType"].astype(str) in WEIGHTED
    ]
    return (integer_layers(sum(kind in INTEGER for kind in kinds), len(kinds)),)
