"""LiteRT runs an engine on the CPU: XNNPACK what it can, as on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from exporters.board.library_calls import library_errors_as
from exporters.board.session import TensorSpec
from profiles.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.arrays import Array
    from exporters.board.session import Options


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
        with library_errors_as(DeviceError, "LiteRT cannot run the network"):
            for name, value in feed.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], value)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]


def open_engine(path: str, options: Options) -> LiteRtSession:
    """The engine loaded, with the XNNPACK delegate."""
    interpreter = Interpreter(model_content=Path(path).read_bytes(), num_threads=options.threads)
    interpreter.allocate_tensors()
    return LiteRtSession(interpreter)
