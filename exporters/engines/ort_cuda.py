"""ONNX Runtime on an NVIDIA GPU: the engine is the model at its precision, fitted to the GPU as it
is opened.
"""

from pathlib import Path
from typing import ClassVar

import onnxruntime

from exporters.board.library_calls import faults
from exporters.board.sessions.ort import OrtSession
from exporters.exporter import BuildFacts, Exporter, Source
from profiles.device import Precision
from profiles.errors import DeviceError
from profiles.machine.facts import versions

PROVIDER = "CUDAExecutionProvider"


class OrtCuda(Exporter):
    """The CUDA provider for every node: none falls back to the CPU."""

    suffix: ClassVar[str] = ".cuda.onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")

    def build(self, source: Source, engine: Path) -> BuildFacts:
        # These need onnx, which running does not.
        from exporters.graph.int8 import Style
        from exporters.graph.precision import at_precision

        style = Style(unsigned_activations=False, quantised_bias=False)
        model, remarks = at_precision(source, self.precision, style)
        engine.write_bytes(model.SerializeToString(deterministic=True))
        return BuildFacts(remarks=remarks)

    def open(self, engine: Path) -> OrtSession:
        if self.obstacle():
            raise DeviceError(f"cannot open {engine.name}: {self.obstacle()}")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = 3
        with faults(DeviceError, f"ONNX Runtime cannot load {engine.name} on the GPU"):
            session = onnxruntime.InferenceSession(str(engine), options, providers=[PROVIDER])
        return OrtSession(session, PROVIDER)

    def environment(self) -> dict[str, str]:
        return {**versions(("onnxruntime", "onnxruntime-gpu")), "provider": PROVIDER}

    def obstacle(self) -> str:
        if PROVIDER in onnxruntime.get_available_providers():
            return ""
        return f"the installed ONNX Runtime has no {PROVIDER}: onnxruntime-gpu has it"
