"""ONNX -> the engine of one runtime, built by the device that is to run it and held to it there."""

from pathlib import Path

from pydantic import Field

from exporters.exporter import HostFittedExporter, runtime
from exporters.worker import EngineFile
from pipeline.measure.agreement import agreement
from pipeline.stages.build import source_of
from pipeline.store.artifacts import Engine, OnnxModel
from pipeline.store.manifest import write_json
from pipeline.store.reports import BuildReport
from pipeline.store.stage import Stage
from profiles.device import EngineOptions, Ssh
from profiles.errors import ConfigError, DeviceError
from profiles.host import Host
from profiles.machine.facts import versions


class BuildThere(Stage[OnnxModel, Engine]):
    """Prepare here, build there; verify there."""

    engine: str
    options: EngineOptions
    ssh: Ssh = Field(exclude=True)
    """Where the device is. Its address does not change what is built; which machine it is does,
    for an engine may be code, and no machine gets another one's.
    """
    host: Host = Field(exclude=True)
    """What the device told of itself."""

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

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        from pipeline.measure.board import reached  # needs the extra that talks to boards

        exporter = self._exporter()
        prepared = exporter.prepare(source_of(source))
        path = out / f"engine{exporter.suffix}"
        file = EngineFile(runtime=self.engine, options=self.options, path=str(path))
        with reached(self.ssh) as device:
            if device.host() != self.host:
                raise DeviceError(f"{device.name}: it was changed since the run began; run again")
            built = device.built(self.engine, self.options, prepared.model)
            path.write_bytes(built.content)
            step = f"building with {self.engine} on {device.name}"
            parity, elsewhere = agreement(step, device, file, source)
        report = BuildReport(
            engine=self.engine,
            precision=self.options.precision,
            parity=parity,
            elsewhere=elsewhere,
            unverified="",
            facts=built.facts.model_copy(update={"remarks": prepared.remarks}),
        )
        write_json(out / "build.json", report)

    def load(self, source: OnnxModel, out: Path, key: str) -> Engine:
        return Engine(key, out / f"engine{self._exporter().suffix}", source)

    def _exporter(self) -> HostFittedExporter:
        found = runtime(self.engine, self.options)
        if not isinstance(found, HostFittedExporter):
            raise ConfigError(f"{self.engine} engines are not built on devices")
        return found
