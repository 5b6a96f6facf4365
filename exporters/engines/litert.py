"""LiteRT, formerly TensorFlow Lite, on the CPU: XNNPACK runs what it can, as on a phone."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from exporters.base import Array, BuildFacts, Exporter, Source, TensorSpec
from exporters.foreign import faults, quiet
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.host import versions

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as error:
    raise MissingExtra("ai-edge-litert", "litert") from error


class LiteRtSession:
    """A loaded model; its input has the order of axes that the network has."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._inputs = {found["name"]: found for found in interpreter.get_input_details()}
        self._outputs = [found["index"] for found in interpreter.get_output_details()]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, np.dtype(found["dtype"]).name, tuple(found["shape"].tolist()))
            for name, found in self._inputs.items()
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        with faults(DeviceError, "LiteRT cannot run the network"):
            for name, value in feed.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], value)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]


class LiteRt(Exporter):
    """LiteRT with its XNNPACK delegate, for a batch of one."""

    suffix: ClassVar[str] = ".tflite"

    def build(self, source: Source, engine: Path) -> BuildFacts:
        network = source.network()
        with quiet(), faults(StageError, f"LiteRT cannot convert {source.model.name}"):
            try:
                import litert_torch
                import torch
            except ImportError as error:
                raise MissingExtra("litert-torch", "litert") from error
            example = torch.from_numpy(source.calibration[:1].copy())
            content: bytes = litert_torch.convert(network, (example,)).model_content()
        engine.write_bytes(content)
        return BuildFacts()

    def open(self, engine: Path) -> LiteRtSession:
        with faults(DeviceError, f"LiteRT cannot load {engine.name}"):
            interpreter = Interpreter(model_content=engine.read_bytes(), num_threads=self.threads)
            interpreter.allocate_tensors()
        return LiteRtSession(interpreter)

    def environment(self) -> dict[str, str]:
        return versions(("ai-edge-litert", "litert-torch", "litert-converter", "torch"))
