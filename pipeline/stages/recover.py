"""Repair a pruned network without training: a chain of recoveries."""

import logging
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.network.calibration import calibration_of_task
from pipeline.network.plan import PruningPlan
from pipeline.network.run import compute_device
from pipeline.network.weights import write_weights
from pipeline.repair.chain import repair
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.store.artifacts import Checkpoint, Recovered
from pipeline.store.files import write_json
from pipeline.store.reports import RecoveryReport, RepairReport
from pipeline.store.stage import Stage
from profiles.errors import ConfigError
from profiles.plugins import choice
from profiles.spec import read_spec

log = logging.getLogger("slimgate")


class Recover(Stage[Checkpoint, Recovered]):
    """Run each recovery of `chain` in turn on the same calibration samples.

    One after which held-out samples are answered no more like the dense network is undone.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    VERSION: ClassVar[int] = 8

    chain: tuple[Annotated[Recovery, *choice("pipeline.repair.recoveries", Recovery)], ...] = Field(
        default=(LeastSquares(),), min_length=1
    )
    """The recoveries, in the order they run."""
    samples: PositiveInt = 1000
    """The number of calibration samples, of every class alike, from the training data."""
    seed: NonNegativeInt = 0
    """What the choice of calibration samples depends on."""
    memory_gib: PositiveFloat | None = Field(default=None, exclude=True)
    """How much of what is computed of the samples is held in memory, and not in a temporary file;
    half of the free memory when not given. Less makes it slower, not other."""

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        if source.teacher is None or source.plan is None:
            raise ConfigError("only a pruned network can be recovered: prune it first")
        device = compute_device()
        network, dense = source.network().to(device), source.teacher.network().to(device)
        calibration = calibration_of_task(
            source.task, self.samples, self.seed, device, self.memory_gib
        )
        plan = read_spec(source.plan, PruningPlan)
        recoveries = repair(network, dense, plan, self.chain, calibration, source.task.loss)
        write_json(out / "recover.json", RepairReport(recoveries=recoveries))
        write_weights(network, out / "model.safetensors")
        for one in recoveries:
            _log(one)

    def load(self, source: Checkpoint, out: Path, key: str) -> Recovered:
        return Recovered(key, source.task, out / "model.safetensors", source.plan, source.teacher)


def _log(recovery: RecoveryReport) -> None:
    before, after = map(_distance_text, (recovery.distance_before, recovery.distance_after))
    undone = "" if recovery.kept else ", undone"
    log.info("  %s: from the dense network %s -> %s%s", recovery.name, before, after, undone)
    for remark in recovery.remarks:
        log.warning("  %s: %s", recovery.name, remark)


def _distance_text(distance: float | None) -> str:
    return "not finite" if distance is None else f"{distance:.4f}"
