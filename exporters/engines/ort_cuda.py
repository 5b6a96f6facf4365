"""ONNX Runtime on an NVIDIA GPU: the engine is the model at its precision, fitted to the GPU as it
is opened.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.library_calls import library_errors_as
from exporters.exporter import BuildFacts, Int8Format, OnnxExporter, PreparedModel, Source
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra
from profiles.machine.facts import versions

if TYPE_CHECKING:
    from exporters.board.sessions.ort import OrtSession

PROVIDER = "CUDAExecutionProvider"
EXACT = (PROVIDER, {"use_tf32": "0"})
"""Without TF32, which keeps ten bits of what is called fp32."""
INT8 = Int8Format(unsigned_activations=False, quantised_bias=False)


class OrtCuda(OnnxExporter):
    """The CUDA provider for every node: none falls back to the CPU."""

    suffix: ClassVar[str] = ".cuda.onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")
    ON_GPU: ClassVar[bool] = True
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

        return at_precision(source, self.precision, INT8)

    def build_prepared(self, prepared: PreparedModel, engine: Path) -> BuildFacts:
        engine.write_bytes(prepared.model)
        return BuildFacts(remarks=prepared.remarks)

    def open(self, engine: Path) -> "OrtSession":
        import onnxruntime

        from exporters.board.sessions.ort import OrtSession

        if reason := self.unavailable_reason():
            raise DeviceError(f"cannot open {engine.name}: {reason}")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = 3
        with library_errors_as(DeviceError, f"ONNX Runtime cannot load {engine.name} on the GPU"):
            session = onnxruntime.InferenceSession(str(engine), options, providers=[EXACT])
        return OrtSession(session, PROVIDER)

    def environment(self) -> dict[str, str]:
        return {**versions(("onnxruntime", "onnxruntime-gpu")), "provider": PROVIDER}

    def unavailable_reason(self) -> str:
        import onnxruntime

        if PROVIDER in onnxruntime.get_available_providers():
            return ""
        return f"the installed ONNX Runtime has no {PROVIDER}: onnxruntime-gpu has it"
