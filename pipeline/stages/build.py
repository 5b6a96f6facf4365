"""ONNX -> the engine of one runtime, built here and held to the ONNX model it came from."""

import logging
from pathlib import Path

from pipeline.measure.agreement import agreement
from pipeline.measure.places import ThisMachine
from pipeline.stages.engine_stage import EngineStage, source_of
from pipeline.store.artifacts import OnnxModel
from pipeline.store.files import write_json

log = logging.getLogger("slimgate")


class Build(EngineStage):
    """Build, and verify where the engine runs. It depends on this machine, and so does its key."""

    def environment(self) -> dict[str, str]:
        return self.exporter().environment()

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        exporter, path = self.exporter(), self.path(out)
        facts = exporter.build(source_of(source), path)
        unverified = exporter.unavailable_reason()
        parities = None
        if unverified:
            log.warning("  built, unverified: %s", unverified)
        else:
            step = f"building with {self.engine}"
            parities = agreement(step, ThisMachine(), self.engine_file(path), source)
            log.info("  largest relative difference %.1e", parities[0].error)
        write_json(out / "build.json", self.report(facts, parities, unverified))
