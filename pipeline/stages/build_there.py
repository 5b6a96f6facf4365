"""ONNX -> the engine of one runtime, built by the device that is to run it."""

from pathlib import Path

from pydantic import Field

from exporters.base import Fitted, runtime
from pipeline.artifact import BuildReport, Engine, OnnxModel
from pipeline.stage import Stage
from pipeline.stages.build import source_of
from pipeline.store import write_json
from profiles.device import EngineOptions, Ssh
from profiles.errors import ConfigError
from profiles.host import Host
from profiles.machine import versions


class BuildThere(Stage[OnnxModel, Engine]):
    """Prepare here, build there. The engine is held to its network when it is measured."""

    engine: str
    options: EngineOptions
    ssh: Ssh = Field(exclude=True)
    """Where the device is: its address does not change what is built, what it is does."""
    host: Host = Field(exclude=True)
    """What the device told of itself."""

    def environment(self) -> dict[str, str]:
        gpus = ", ".join(f"{gpu.name} {gpu.compute_capability}" for gpu in self.host.gpus)
        there = {f"there {name}": version for name, version in self.host.versions.items()}
        here = versions(("onnx", "onnxruntime"))
        return {**here, **there, "model": self.host.model, "cpu": self.host.cpu, "gpus": gpus}

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        exporter = self._exporter()
        prepared = exporter.prepared(source_of(source))
        from pipeline.remote import reached  # needs the extra that talks to boards

        with reached(self.ssh) as device:
            built = device.built(self.engine, self.options, prepared.model)
        (out / f"engine{exporter.suffix}").write_bytes(built.content)
        report = BuildReport(
            engine=self.engine,
            precision=self.options.precision,
            parity=None,
            elsewhere=None,
            unverified="it was built on the device, and never run",
            facts=built.facts.model_copy(update={"remarks": prepared.remarks}),
        )
        write_json(out / "build.json", report)

    def load(self, source: OnnxModel, out: Path, key: str) -> Engine:
        return Engine(key, out / f"engine{self._exporter().suffix}", source)

    def _exporter(self) -> Fitted:
        found = runtime(self.engine, self.options)
        if not isinstance(found, Fitted):
            raise ConfigError(f"{self.engine} engines are not built on devices")
        return found
