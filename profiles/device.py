"""What a device is, and what a network may cost on it."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.host import Host
from profiles.spec import Spec, read_spec

DEFAULT_ENGINE = "ort"
"""The runtime of devices that name none, and the one that others are compared with."""
Precision = Literal["fp32", "fp16", "int8"]
ComputeCapability = Annotated[str, Field(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""As NVIDIA writes it, "8.6"."""


class EngineOptions(Spec):
    """How a runtime builds and runs an engine."""

    threads: PositiveInt = 1
    precision: Precision = "fp32"
    compute_capability: ComputeCapability | None = None
    """Of the NVIDIA GPU that the engine is for; CPU runtimes have no use for it."""
    portable: bool = False
    """For any processor of its kind, and fitted to the very one as it is loaded: for engines that
    are not built where they run. Costs load time and memory."""


class Identity(Spec):
    """What a machine must report to count as this device; what is left out may be anything."""

    machine: str | None = None
    """What `platform.machine()` answers: x86_64, aarch64 ..."""
    model: str | None = None
    """Part of the model in the device tree or of the maker's product name."""
    cpu: str | None = None
    """Part of the processor's name."""
    cores: PositiveInt | None = None

    def mismatch(self, host: Host) -> str:
        """How `host` differs from this; empty where it does not."""
        wrong = []
        if self.machine not in (None, host.machine):
            wrong.append(f"it is {host.machine}, not {self.machine}")
        if self.model is not None and self.model not in host.model:
            wrong.append(f"its model is {host.model or 'unknown'}, not {self.model}")
        if self.cpu is not None and self.cpu not in host.cpu:
            wrong.append(f"its processor is {host.cpu}, not {self.cpu}")
        if self.cores not in (None, host.cores):
            wrong.append(f"it has {host.cores} cores, not {self.cores}")
        return ", ".join(wrong)


class DeviceProfile(EngineOptions):
    """One device: how its engine is built and run, and what counts as this device."""

    description: str
    engine: str = DEFAULT_ENGINE
    batch: PositiveInt = 1
    """The samples in every call that is timed."""
    gpu: bool = False
    """Whether the engine runs on an NVIDIA GPU; a recipe's target takes this from its engine."""
    channel_multiple: PositiveInt = 8
    identity: Identity = Identity()
    budget: Budget | None = None
    """For recipes that set none."""

    def mismatch(self, host: Host) -> str:
        """How `host` differs from this device; empty where it does not."""
        wrong = self.identity.mismatch(host)
        needed = self.compute_capability
        if wrong or not self.on_gpu:
            return wrong
        if any(needed in (None, gpu.compute_capability) for gpu in host.gpus):
            return ""
        return f"it has no GPU of compute capability {needed}" if needed else "it has no NVIDIA GPU"

    @property
    def on_gpu(self) -> bool:
        """Whether its engines run on a GPU, with memory of its own."""
        return self.gpu or self.compute_capability is not None

    @property
    def clock(self) -> Literal["cpu", "wall"]:
        """CPU time of several threads adds up, and of a GPU's it is none: wall time then."""
        return "cpu" if self.threads == 1 and not self.on_gpu else "wall"

    def options(self) -> EngineOptions:
        """What of the profile its runtime is told."""
        return EngineOptions.model_validate(
            self.model_dump(include=set(EngineOptions.model_fields))
        )


class Ssh(Spec):
    """Where a board is, and how to know that it is the one."""

    host: str
    port: Annotated[PositiveInt, Field(lt=1 << 16)] = 22
    user: str
    host_key: Annotated[str, Field(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*$")]
    """As `ssh-keyscan` prints it: the kind and the key. Another key is another machine."""
    key_file: str | None = None
    """Your private key, relative to the recipe; the agent's and the usual files when left out."""
    python: str = "python3"
    """On the board: Python 3.8 or newer, with numpy and the runtime."""
    timeout_s: PositiveFloat = 900.0
    """For each thing that is asked of it."""


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
