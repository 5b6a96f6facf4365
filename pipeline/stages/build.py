"""ONNX -> the engine of one runtime, held to the ONNX model it came from."""

import logging
from pathlib import Path

import numpy as np

from exporters.base import Exporter, Source, call_one, runtime
from exporters.engines.ort import plain_network
from exporters.opener import open_onnx
from exporters.parity import Parity, feeds_of, hold
from exporters.worker import EngineFile
from pipeline.artifact import BuildReport, Engine, OnnxModel
from pipeline.data import FloatArray, balanced_indices, batches
from pipeline.stage import Stage
from pipeline.stages.export import images_and_others
from pipeline.store import write_json
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
        given = Source(
            source.model, calibration_inputs(source.checkpoint.task), source.checkpoint.network
        )
        facts = exporter.build(given, path)
        unverified = exporter.obstacle()
        parity = elsewhere = None
        if unverified:
            log.warning("  built, unverified: %s", unverified)
        else:
            parity, elsewhere = self._verified(exporter, source, path)
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

    def _verified(self, exporter: Exporter, source: OnnxModel, path: Path) -> tuple[Parity, Parity]:
        """On images, and on noise and edges."""
        session = exporter.open(path)
        dynamic = session.inputs[0].shape[0] is None
        # The store may be shared: what it holds is opened like any file of somebody else.
        reference = plain_network(open_onnx(source.model).SerializeToString())
        inputs = images_and_others(np.load(source.feeds, allow_pickle=False))
        return hold(
            f"building with {self.engine}",
            (reference, lambda batch: call_one(session, batch)),
            (feeds_of(inputs[0], dynamic), feeds_of(inputs[1], dynamic)),
            self.options.precision,
        )


def calibration_inputs(task: Task) -> FloatArray:
    """Training images [n, ...] of every class alike."""
    count = min(CALIBRATION, len(task.train))
    inputs, _ = next(batches(task.train, balanced_indices(task.train, count, 1), count))
    return inputs
