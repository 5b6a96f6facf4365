"""TensorRT 10 and 11, and TensorRT-RTX, which builds for a GPU that is not here."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.library_calls import library_errors_as
from exporters.board.session import UNTIMED_BATCH
from exporters.exporter import BuildFacts, HostFittedExporter, Int8Format, PreparedModel, Source
from profiles.device import Precision
from profiles.errors import DeviceError, StageError
from profiles.machine import gpu
from profiles.machine.facts import versions

if TYPE_CHECKING:
    from exporters.board.sessions.trt import TrtSession

INT8 = Int8Format(unsigned_activations=False, quantised_bias=False)


class Trt(HostFittedExporter):
    """Strongly typed networks: the precision is the ONNX model's.

    TensorRT is imported where it is needed: a model can be prepared for a board without it.
    """

    suffix: ClassVar[str] = ".engine"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    ON_GPU: ClassVar[bool] = True
    LARGEST_BATCH: ClassVar[int | None] = UNTIMED_BATCH
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = (
        "tensorrt",
        "tensorrt-cu12",
        "tensorrt-cu13",
        "tensorrt-rtx-cu13-bindings",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    )

    def prepare(self, source: Source) -> PreparedModel:
        # This needs onnx, which running does not.
        from exporters.graph.precision import at_precision

        return at_precision(source, self.precision, INT8)

    def build_prepared(self, prepared: PreparedModel, engine: Path) -> BuildFacts:
        from exporters.board.sessions.trt import build_engine

        with library_errors_as(StageError, f"TensorRT cannot build {engine.name}"):
            facts = build_engine(prepared.model, str(engine), self)
        return BuildFacts(**facts, remarks=prepared.remarks)

    def open(self, engine: Path) -> "TrtSession":
        from exporters.board.sessions.trt import open_engine

        with library_errors_as(DeviceError, f"cannot open {engine.name}"):
            return open_engine(str(engine), self)

    def environment(self) -> dict[str, str]:
        from exporters.board.sessions.trt import version

        # With or without a GPU: an engine that could not run was not verified.
        here = ", ".join(f"{one.name} {one.compute_capability}" for one in gpu.gpus())
        return {
            **version(),
            **versions(("onnx", "onnxruntime")),
            "gpu": here or "none",
        }

    def unavailable_reason(self) -> str:
        return gpu.obstacle(self.compute_capability)
