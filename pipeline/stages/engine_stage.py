"""What all stages that build an engine share: its fields, its file and its report."""

from abc import abstractmethod
from pathlib import Path
from typing import Self

from exporters.exporter import BuildFacts, Exporter, Source, runtime
from exporters.parity import Parity
from exporters.worker import EngineFile
from pipeline.data.arrays import FloatArray
from pipeline.data.batches import balanced_indices, batches
from pipeline.store.artifacts import Engine, OnnxModel
from pipeline.store.reports import BuildReport
from pipeline.store.stage import Stage
from pipeline.task import Task
from profiles.device import EngineOptions

INT8_SAMPLES = 64
"""Training images from which int8 takes its ranges."""


class EngineStage(Stage[OnnxModel, Engine]):
    """ONNX -> the engine of one runtime."""

    engine: str
    """The name of the runtime."""
    options: EngineOptions = EngineOptions()
    """The engine's precision, and what else the runtime is to be told."""

    def at_fp32(self) -> Self | None:
        """The stage that must succeed before this one is run; None where it is at fp32 itself.

        A runtime whose operators are wrong at fp32 may pass below it, where rounding excuses more.
        """
        if self.options.precision == "fp32":
            return None
        options = self.options.model_copy(update={"precision": "fp32"})
        return self.model_copy(update={"options": options})

    def exporter(self) -> Exporter:
        """What builds and runs engines of the runtime."""
        return runtime(self.engine, self.options)

    def path(self, out: Path) -> Path:
        """The engine's file in the stage's folder."""
        return out / f"engine{self.exporter().suffix}"

    def engine_file(self, path: Path) -> EngineFile:
        """The engine at `path`, with what runs it."""
        return EngineFile(runtime=self.engine, options=self.options, path=str(path))

    @abstractmethod
    def make(self, source: OnnxModel, out: Path) -> None:
        """Write an engine that is held to nothing: to be timed, never to be shipped."""

    def load(self, source: OnnxModel, out: Path, key: str) -> Engine:
        return Engine(key, self.path(out), source)

    def report(
        self, facts: BuildFacts, parities: tuple[Parity, Parity] | None, unverified: str = ""
    ) -> BuildReport:
        """The report: how near its outputs are on images and elsewhere, or why nobody knows."""
        parity, elsewhere = parities or (None, None)
        return BuildReport(
            engine=self.engine,
            precision=self.options.precision,
            parity=parity,
            elsewhere=elsewhere,
            unverified=unverified,
            facts=facts,
        )


def source_of(model: OnnxModel) -> Source:
    """What an engine of the model is built from."""
    checkpoint = model.checkpoint
    return Source(model.model, int8_calibration(checkpoint.task), checkpoint.network)


def int8_calibration(task: Task) -> FloatArray:
    """Training images [n, ...] of every class alike."""
    count = min(INT8_SAMPLES, len(task.train))
    inputs, _ = next(batches(task.train, balanced_indices(task.train, count, 1), count))
    return inputs
