"""A device that a stage measures on, as far as its result depends on it."""

from typing import Self

from pydantic import Field

from exporters.exporter import HostFittedExporter, exporter_class
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.network.layer_times import NetworkTimes
from pipeline.stages.build import Build
from pipeline.stages.build_there import BuildThere
from pipeline.store.artifacts import TimedLayers
from profiles.budget import Budget
from profiles.device import DeviceProfile, Ssh
from profiles.errors import DeviceError
from profiles.host import Host
from profiles.limits import cost_limits
from profiles.spec import Spec


class MeasuredTarget(Spec):
    """A device that is measured on, and nothing of what is asked of it."""

    device: DeviceProfile
    build: Build | BuildThere
    host: Host = Field(exclude=True)
    """What the device is, as it was asked when the run began."""
    ssh: Ssh | None = Field(default=None, exclude=True)

    def environment(self) -> dict[str, str]:
        """What of the device its times depend on."""
        host = self.host
        return {
            **self.build.environment(),
            **{f"there {name}": version for name, version in host.versions.items()},
            "build": str(self.build.VERSION),
            "model": host.model,
            "cpu": f"{host.cores} x {host.cpu}",
            "gpus": ", ".join(gpu.name for gpu in host.gpus),
            "system": host.system,
            **({"host_key": self.ssh.host_key} if self.ssh else {}),
        }

    def for_layers(self) -> "MeasuredTarget":
        """The same for timing layers alone.

        A board fits portable engines to itself as it loads them, which spares it from building.
        """
        device, kind = self.device, exporter_class(self.device.engine)
        portable = device.portable or (
            self.ssh is not None and issubclass(kind, HostFittedExporter)
        )
        device = device.model_copy(update={"portable": portable})
        build = Build(engine=device.engine, options=device.options())
        return MeasuredTarget(device=device, build=build, host=self.host, ssh=self.ssh)


class BudgetedTarget(MeasuredTarget):
    """A device that is measured on, and what the network may cost there.

    Whatever is changed of it makes another result.
    """

    name: str
    budget: Budget
    layers: TimedLayers | None = Field(default=None, exclude=True)
    """The times of the dense network's layers alone, where they are known."""
    layers_key: str = ""

    def resolved(self) -> ResolvedTarget:
        return ResolvedTarget(self.name, self.device, self.budget, self.ssh)

    def with_layers(self, layers: TimedLayers) -> Self:
        """The same when the times of layers are known."""
        return self.model_copy(update={"layers": layers, "layers_key": layers.key})

    def layer_times(self) -> NetworkTimes | None:
        """The times of the dense network's layers."""
        return self.layers.times() if self.layers else None


def measured_target(
    target: ResolvedTarget, host: Host, build: Build | BuildThere
) -> MeasuredTarget:
    """What of the target times depend on. Raises DeviceError where `host` is no such device."""
    if mismatch := target.device.mismatch(host):
        raise DeviceError(
            f"{target.name}: times need the device itself, and what answers is another machine "
            f"({mismatch}): say where the device is in target.ssh, or set prune.macs_ratio, which "
            "needs no measuring"
        )
    device = target.device.model_copy(update={"budget": None, "description": ""})
    return MeasuredTarget(device=device, build=build, host=host, ssh=target.ssh)


def budgeted(target: ResolvedTarget, measured: MeasuredTarget) -> BudgetedTarget:
    """The same with what the network may cost there."""
    return BudgetedTarget(
        name=target.name,
        device=measured.device,
        budget=Budget.model_validate(cost_limits(target.device, target.budget)),
        build=measured.build,
        host=measured.host,
        ssh=target.ssh,
    )
