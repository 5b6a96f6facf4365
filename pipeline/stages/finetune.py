"""A short fine-tuning: the training as a stage, its epochs reported."""

from pathlib import Path
from typing import ClassVar

from pipeline.network.run import compute_device
from pipeline.network.weights import write_weights
from pipeline.store.artifacts import Checkpoint
from pipeline.store.files import write_json
from pipeline.store.reports import FineTuneReport
from pipeline.store.stage import Stage
from pipeline.train.epoch_record import best_of
from pipeline.train.loop import train
from pipeline.train.progress import ProgressFile
from pipeline.train.settings import Settings


class FineTune(Settings, Stage[Checkpoint, Checkpoint]):
    """Train, taught by the dense network where the source descends from one.

    The epoch that does best on held-out training samples is kept.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    VERSION: ClassVar[int] = 2

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        device = compute_device()
        network = source.network().to(device)
        dense = source.teacher.network().to(device) if source.teacher and self.distill else None
        saved = ProgressFile(scratch / "epoch", source.check_unchanged)
        epochs = train(network, dense, source.task, self, saved)
        write_weights(network, out / "model.safetensors")
        report = FineTuneReport(epochs=epochs, best=best_of(epochs).epoch)
        write_json(out / "finetune.json", report)

    def load(self, source: Checkpoint, out: Path, key: str) -> Checkpoint:
        return Checkpoint(key, source.task, out / "model.safetensors", source.plan, source.teacher)
