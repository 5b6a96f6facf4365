"""ONNX -> the engine of one runtime, built by the device that is to run it and held to it there."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from exporters.exporter import HostFittedExporter
from pipeline.measure.agreement import agreement
from pipeline.stages.engine_stage import EngineStage, source_of
from pipeline.store.artifacts import OnnxModel
from pipeline.store.files import write_json
from profiles.device import Ssh
from profiles.errors import ConfigError, DeviceError
from profiles.host import Host
from profiles.machine.facts import versions


class BuildThere(EngineStage):
    """Prepare here, build there; verify there."""

    VERSION: ClassVar[int] = 3

    ssh: Ssh = Field(exclude=True)
    """The address of the device, which does not change what is built. Which machine it is does: an
    engine may be code, and no machine gets another one's.
    """
    host: Host = Field(exclude=True)
    """What the device is, as it was asked when the run began."""

    def environment(self) -> dict[str, str]:
        gpus = ", ".join(f"{gpu.name} {gpu.compute_capability}" for gpu in self.host.gpus)
        there = {f"there {name}": version for name, version in self.host.versions.items()}
        here = versions(("onnx", "onnxruntime"))
        return {
            **here,
            **there,
            "model": self.host.model,
            "cpu": self.host.cpu,
            "gpus": gpus,
            "host_key": self.ssh.host_key,
        }

    def make(self, source: OnnxModel, out: Path) -> None:
        from pipeline.measure.board import reached

        prepared = self.exporter().prepare(source_of(source))
        with reached(self.ssh) as device:
            built = device.built(self.engine, self.options, prepared.model)
        self.path(out).write_bytes(built.content)

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        from pipeline.measure.board import reached  # needs the extra that talks to boards

        prepared = self.exporter().prepare(source_of(source))
        path = self.path(out)
        with reached(self.ssh) as device:
            if device.host() != self.host:
                raise DeviceError(f"{device.name}: it was changed since the run began; run again")
            built = device.built(self.engine, self.options, prepared.model)
            path.write_bytes(built.content)
            step = f"building with {self.engine} at {self.options.precision} on {device.name}"
            parities = agreement(step, device, self.engine_file(path), source, prepared.model)
        facts = built.facts.model_copy(update={"remarks": prepared.remarks})
        write_json(out / "build.json", self.report(facts, parities))

    def exporter(self) -> HostFittedExporter:
        found = super().exporter()
        if not isinstance(found, HostFittedExporter):
            raise ConfigError(
                f"{self.engine} engines cannot be built on a device over SSH; use the stage Build"
            )
        return found
