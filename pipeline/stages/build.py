"""ONNX -> the engine of one runtime, held to the ONNX model it came from."""

import logging
from pathlib import Path

from exporters.exporter import Exporter, Source, runtime
from exporters.worker import EngineFile
from pipeline.data.arrays import FloatArray
from pipeline.data.batches import balanced_indices, batches
from pipeline.measure.agreement import agreement
from pipeline.measure.places import ThisMachine
from pipeline.store.artifacts import Engine, OnnxModel
from pipeline.store.manifest import write_json
from pipeline.store.reports import BuildReport
from pipeline.store.stage import Stage
from pipeline.task import Task
from profiles.device import EngineOptions

log = logging.getLogger("slimgate")

CALIBRATION = 64
"""Training images from which int8 takes its ranges."""


class Build(Stage[OnnxModel, Engine]):
    """Build, and verify where the engine runs. It depends on this machine, and so does its key."""

    engine: str
    options: EngineOptions = EngineOptions()

    def environment(self) -> dict[str, str]:
        return self._exporter().environment()

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        exporter = self._exporter()
        path = out / f"engine{exporter.suffix}"
        facts = exporter.build(source_of(source), path)
        unverified = exporter.unavailable_reason()
        parity = elsewhere = None
        if unverified:
            log.warning("  built, unverified: %s", unverified)
        else:
            file = EngineFile(runtime=self.engine, options=self.options, path=str(path))
            parity, elsewhere = agreement(
                f"building with {self.engine}", ThisMachine(), file, source
            )
            log.info("  largest relative difference %.1e", parity.error)
        report = BuildReport(
            engine=self.engine,
            precision=self.options.precision,
            parity=parity,
            elsewhere=elsewhere,
            unverified=unverified,
            facts=facts,
        )
        write_json(out / "build.json", report)

    def load(self, source: OnnxModel, out: Path, key: str) -> Engine:
        return Engine(key, out / f"engine{self._exporter().suffix}", source)

    def file(self, engine: Engine) -> EngineFile:
        """The engine this stage built, with what runs it."""
        return EngineFile(runtime=self.engine, options=self.options, path=str(engine.path))

    def _exporter(self) -> Exporter:
        return runtime(self.engine, self.options)


def source_of(model: OnnxModel) -> Source:
    """What an engine of the model is built from."""
    checkpoint = model.checkpoint
    return Source(model.model, calibration_inputs(checkpoint.task), checkpoint.network)


def calibration_inputs(task: Task) -> FloatArray:
    """Training images [n, ...] of every class alike."""
    count = min(CALIBRATION, len(task.train))
    inputs, _ = next(batches(task.train, balanced_indices(task.train, count, 1), count))
    return inputs
