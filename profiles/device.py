"""What a device is, and what a network may cost on it."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from profiles.errors import ConfigError
from profiles.spec import Spec, read_spec

Fraction = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["fp32", "fp16", "int8"]
ComputeCapability = Annotated[str, Field(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""As NVIDIA writes it, "8.6"."""


class Budget(Spec):
    """Limits; each is optional, at least one is set, and each one set is judged.

    `_ratio` limits are shipped / dense. 1 MAC = 2 FLOPs. Absolute latencies are wall time,
    latency ratios CPU time. `top1_drop` is the largest loss of the task's metric, as a fraction.
    """

    top1_drop: Annotated[NonNegativeFloat, Field(lt=1)] | None = None
    macs: PositiveInt | None = None
    macs_ratio: Fraction | None = None
    parameters: PositiveInt | None = None
    engine_size_mib: PositiveFloat | None = None
    latency_p50_ms: PositiveFloat | None = None
    latency_p95_ms: PositiveFloat | None = None
    latency_p50_ratio: PositiveFloat | None = None
    peak_memory_mib: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_an_item(self) -> Self:
        if not self.limits():
            raise ValueError(f"a budget needs at least one of: {', '.join(Budget.model_fields)}")
        return self

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in self if value is not None}


class EngineOptions(Spec):
    """How a runtime builds and runs an engine."""

    threads: PositiveInt = 1
    precision: Precision = "fp32"
    compute_capability: ComputeCapability | None = None
    """Of the NVIDIA GPU that the engine is for; CPU runtimes have no use for it."""
    portable: bool = False
    """For any processor of its kind, and fitted to the very one as it is loaded: for engines that
    are not built where they run. Costs load time and memory."""


class DeviceProfile(EngineOptions):
    """One device: how its engine is built and run, and what counts as this device."""

    description: str
    engine: str = "ort"
    channel_multiple: PositiveInt = 8
    machine: str | None = None
    """What `platform.machine()` must answer on the device; None accepts any."""

    def options(self) -> EngineOptions:
        """What of the profile its runtime is told."""
        return EngineOptions.model_validate(
            self.model_dump(include=set(EngineOptions.model_fields))
        )


def device_names() -> tuple[str, ...]:
    """The names of the device profiles that come with slimgate."""
    folder = resources.files("profiles") / "devices"
    return tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))


def load_device(name: str, base: Path) -> DeviceProfile:
    """A shipped profile by name, or one of your own by its `.toml` path relative to `base`."""
    if name.endswith(".toml"):
        return read_spec(base / name, DeviceProfile)
    if name not in device_names():
        known = ", ".join(device_names())
        raise ConfigError(f"device {name!r} is none of: {known}; or give the path of a .toml")
    with resources.as_file(resources.files("profiles") / "devices" / f"{name}.toml") as path:
        return read_spec(path, DeviceProfile)
