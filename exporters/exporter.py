"""What a runtime must offer: an `Exporter` builds its engines, a `Session` runs one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import NonNegativeInt, ValidationError, model_validator

from exporters.arrays import FloatArray
from exporters.board.session import Session
from profiles.device import DeviceProfile, EngineOptions, Precision
from profiles.errors import ConfigError
from profiles.plugins import plugin, plugin_names
from profiles.spec import Spec, explain

if TYPE_CHECKING:
    from torch import nn

ENGINES = "exporters.engines"
"""The package whose files are the runtimes."""
TOOLS = ("numpy", "onnx", "onnxsim", "torch", "torchvision")
"""The distributions that shape a network before a runtime gets it."""


@dataclass(frozen=True)
class Source:
    """What an engine may be built from: one network, as ONNX and in torch."""

    model: Path
    """The network as ONNX at fp32: verified, and one file."""
    calibration: FloatArray
    """Real inputs [n, ...], from which int8 takes its ranges."""
    network: Callable[[], "nn.Module"]
    """A function that gives the same network in eval mode, for runtimes that convert from torch."""


@dataclass(frozen=True)
class Int8Format:
    """The form of int8 that a runtime's integer kernels take."""

    unsigned_activations: bool
    """Whether activations are uint8. ONNX Runtime on x86 is three times as fast with them;
    TensorRT takes signed ones only."""
    quantised_bias: bool
    """Whether biases become int32. TensorRT refuses such biases."""


class BuildFacts(Spec):
    """What a builder tells of an engine that cannot be seen from outside."""

    layers: NonNegativeInt | None = None
    weights_bytes: NonNegativeInt | None = None
    activation_bytes: NonNegativeInt | None = None
    remarks: tuple[str, ...] = ()


class Exporter(EngineOptions, ABC):
    """Builds engines of one runtime, and opens them.

    A subclass is the only one of its file in `exporters/engines/`. The file imports without the
    runtime's library, so that what the class says of its engines is known everywhere; methods
    import the library when they need it.
    """

    suffix: ClassVar[str]
    """The ending of an engine's file name."""
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32",)
    """The precisions at which it builds engines."""
    ON_GPU: ClassVar[bool] = False
    """Whether its engines run on an NVIDIA GPU. Their latency is then wall time, and the host's
    memory says nothing of them."""
    LARGEST_BATCH: ClassVar[int | None] = None
    """The most samples that a call may have where the batch is free; None for any number."""
    TIMES_LAYERS: ClassVar[tuple[Precision, ...]] = ()
    """The precisions at which times of layers alone foretell those of whole networks, which
    tests/benchmarks/layer_times.py shows for fp32; int8 is foretold less well."""
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ()
    """The Python distributions that may bring the runtime. Scores of an engine are evidence only
    for machines that have the same versions of them."""

    @model_validator(mode="after")
    def _has_precision(self) -> Self:
        if self.precision not in self.PRECISIONS:
            known = ", ".join(self.PRECISIONS)
            raise ValueError(f"precision {self.precision} is none of this engine's: {known}")
        return self

    @classmethod
    def import_library(cls) -> None:
        """Import the runtime's library, so that doing so counts as no engine's start.

        Raises MissingExtra. Does nothing for runtimes that prepare models without their library.
        """

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
        """The median time of each layer on noise, ms; empty where the runtime measures none.

        Profiling costs time of its own: the times compare layers with one another, and add up to
        more than a call takes.
        """
        return {}

    def unavailable_reason(self) -> str:
        """Why engines cannot run on this machine; empty where they can."""
        return ""


@dataclass(frozen=True)
class PreparedModel:
    """The ONNX model at the precision that an engine is to have, from which it is built."""

    model: bytes
    """Serialised, its precision written into it. The engine is held to it, and it to fp32."""
    remarks: tuple[str, ...]


class OnnxExporter(Exporter):
    """A runtime whose engines are built from ONNX."""

    INT8: ClassVar[Int8Format | None] = None
    """The form of int8 in which layers are timed alone; None for no int8."""

    @abstractmethod
    def prepare(self, source: Source) -> PreparedModel:
        """The model an engine is built from. Needs onnx, and not the runtime."""

    @abstractmethod
    def build_prepared(self, prepared: PreparedModel, engine: Path) -> BuildFacts:
        """Write the engine, one file. Raises StageError with the runtime's words."""

    def build(self, source: Source, engine: Path) -> BuildFacts:
        return self.build_prepared(self.prepare(source), engine)


class HostFittedExporter(OnnxExporter):
    """A runtime whose engines are fitted to the machine that builds them, unless `portable`.

    Its module in `exporters.board.sessions` builds them, so that boards can build their own.
    """


def runtime_names() -> tuple[str, ...]:
    """The names of the runtimes there are, sorted: the files of `exporters/engines/`."""
    return plugin_names(ENGINES)


def exporter_class(name: str) -> type[Exporter]:
    """The class of the runtime `name`, whether or not its library is installed.

    Raises ConfigError for an unknown name.
    """
    return plugin(ENGINES, name, Exporter)  # type: ignore[type-abstract]


def runtime(name: str, options: EngineOptions | None = None) -> Exporter:
    """The exporter of the runtime `name`, its library imported.

    Raises ConfigError for an unknown name or a precision that the runtime does not have, and
    MissingExtra where its library is not installed.
    """
    kind = exporter_class(name)
    kind.import_library()
    try:
        return kind.model_validate((options or EngineOptions()).model_dump())
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error, kind, name)}") from error


def runtime_distributions() -> tuple[str, ...]:
    """The distributions of all runtimes, sorted."""
    return tuple(
        sorted({d for name in runtime_names() for d in exporter_class(name).DISTRIBUTIONS})
    )


def reported_distributions() -> tuple[str, ...]:
    """The distributions whose versions a measurement carries, where they are installed."""
    return (*runtime_distributions(), *TOOLS)


def resolved_device(device: DeviceProfile) -> DeviceProfile:
    """The profile with `gpu` set where its engine runs on one.

    A profile of an engine that is not installed here, as an old bundle may have, stays as it is.
    """
    if device.engine not in runtime_names():
        return device
    return device.model_copy(update={"gpu": device.gpu or exporter_class(device.engine).ON_GPU})


def integer_layers(integer: int, weighted: int) -> str:
    """The remark on an int8 engine that computes so many layers in integers."""
    return f"{integer} of {weighted} layers with weights are computed in integers"


def call_one(session: Session, batch: FloatArray) -> FloatArray:
    """The first output for a batch given to the first input."""
    return np.asarray(session.run({session.inputs[0].name: batch})[0], np.float32)
