"""What a runtime must offer: building an engine and running one are different types."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt

from profiles.plugins import plugin
from profiles.spec import Spec

Array = npt.NDArray[np.float32 | np.float16 | np.int64 | np.uint8]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of an input or output; None marks a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Session(Protocol):
    """An engine, loaded and ready."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs in the model's order; returns when they are ready, so it can be timed."""
        ...


class Exporter(Spec, ABC):
    """Builds engines of one runtime from ONNX, and opens them."""

    suffix: ClassVar[str]
    """File name ending of an engine."""

    threads: PositiveInt = 1

    @abstractmethod
    def build(self, model: Path, engine: Path) -> None:
        """Write the engine for an ONNX model. Raises StageError with the runtime's words."""

    @abstractmethod
    def open(self, engine: Path) -> Session:
        """Load an engine we built. Raises MissingExtra, or DeviceError where it cannot run."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What an engine depends on besides its source: versions, processor."""


def runtime(name: str, threads: int) -> Exporter:
    """The exporter of the runtime `name`. Raises ConfigError for an unknown one."""
    kind = plugin("exporters.engines", name, Exporter)  # type: ignore[type-abstract]
    return kind(threads=threads)


def call_one(session: Session, batch: FloatArray) -> FloatArray:
    """The first output for a batch given to the first input."""
    return np.asarray(session.run({session.inputs[0].name: batch})[0], np.float32)
