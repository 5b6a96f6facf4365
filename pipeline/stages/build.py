"""ONNX -> the engine of one runtime, built here and held to the ONNX model it came from."""

import logging
from pathlib import Path
from typing import ClassVar, Self

from exporters.exporter import OnnxExporter
from pipeline.measure.agreement import agreement
from pipeline.measure.places import ThisMachine
from pipeline.stages.engine_stage import EngineStage, source_of
from pipeline.store.artifacts import OnnxModel
from pipeline.store.files import write_json

log = logging.getLogger("slimgate")


class Build(EngineStage):
    """Build, and verify where the engine runs. It depends on this machine, and so does its key."""

    VERSION: ClassVar[int] = 3

    def at_fp32(self) -> Self | None:
        return None if self.exporter().unavailable_reason() else super().at_fp32()

    def environment(self) -> dict[str, str]:
        return self.exporter().environment()

    def make(self, source: OnnxModel, out: Path) -> None:
        self.exporter().build(source_of(source), self.path(out))

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        exporter, path = self.exporter(), self.path(out)
        prepared = None
        if isinstance(exporter, OnnxExporter):
            prepared = exporter.prepare(source_of(source))
            facts = exporter.build_prepared(prepared, path)
        else:
            facts = exporter.build(source_of(source), path)
        unverified = exporter.unavailable_reason()
        parities = None
        if unverified:
            log.warning("  built, unverified: %s", unverified)
        else:
            step = f"building with {self.engine} at {self.options.precision}"
            model = prepared.model if prepared else None
            parities = agreement(step, ThisMachine(), self.engine_file(path), source, model)
            log.info("  largest relative difference %.1e", parities[0].error)
        write_json(out / "build.json", self.report(facts, parities, unverified))
