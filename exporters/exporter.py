"""What a runtime must offer: building an engine and running one are different types."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import NonNegativeInt, ValidationError, model_validator

from exporters.arrays import FloatArray
from exporters.board.session import Session
from profiles.device import EngineOptions, Precision
from profiles.errors import ConfigError
from profiles.plugins import plugin
from profiles.spec import Spec, explain

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Source:
    """What an engine may be built from: one network, as ONNX and in torch."""

    model: Path
    """ONNX at fp32, verified, one file."""
    calibration: FloatArray
    """[n, ...]: real inputs, from which int8 takes its ranges."""
    network: Callable[[], "nn.Module"]
    """The same network in eval mode, for runtimes that convert from torch."""


class BuildFacts(Spec):
    """What a builder tells of an engine that cannot be seen from outside."""

    layers: NonNegativeInt | None = None
    weights_bytes: NonNegativeInt | None = None
    activation_bytes: NonNegativeInt | None = None
    remarks: tuple[str, ...] = ()


class Exporter(EngineOptions, ABC):
    """Builds engines of one runtime, and opens them."""

    suffix: ClassVar[str]
    """File name ending of an engine."""
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32",)

    @model_validator(mode="after")
    def _has_precision(self) -> Self:
        if self.precision not in self.PRECISIONS:
            known = ", ".join(self.PRECISIONS)
            raise ValueError(f"precision {self.precision} is none of this engine's: {known}")
        return self

    @abstractmethod
    def build(self, source: Source, engine: Path) -> BuildFacts:
        """Write the engine, one file. Raises StageError with the runtime's words."""

    @abstractmethod
    def open(self, engine: Path) -> Session:
        """Load an engine we built. Raises MissingExtra, or DeviceError where it cannot run."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What an engine depends on besides its source: versions, processor."""

    def layer_times_ms(self, engine: Path, batch: int) -> Mapping[str, float]:
        """The median time of each layer on noise, ms; empty where the runtime does not tell.

        Watching costs time of its own: they compare layers, and add up to more than a call takes.
        """
        return {}

    def obstacle(self) -> str:
        """Why engines cannot run on this machine; empty where they can."""
        return ""


@dataclass(frozen=True)
class Prepared:
    """What `build_engine` of a runtime's module in `exporters.board.sessions` is given."""

    model: bytes
    """ONNX, at the precision that the engine is to have."""
    remarks: tuple[str, ...]


class Fitted(Exporter):
    """A runtime whose engines are fitted to the machine that builds them, unless `portable`.

    Its module in `exporters.board.sessions` builds them, so that boards can.
    """

    @abstractmethod
    def prepared(self, source: Source) -> Prepared:
        """What is built from. Needs onnx, and not the runtime."""


def runtime(name: str, options: EngineOptions | None = None) -> Exporter:
    """The exporter of the runtime `name`.

    Raises ConfigError for an unknown one, or for a precision that it does not have.
    """
    kind = plugin("exporters.engines", name, Exporter)  # type: ignore[type-abstract]
    try:
        return kind.model_validate((options or EngineOptions()).model_dump())
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error, kind, name)}") from error


def call_one(session: Session, batch: FloatArray) -> FloatArray:
    """The first output for a batch given to the first input."""
    return np.asarray(session.run({session.inputs[0].name: batch})[0], np.float32)
