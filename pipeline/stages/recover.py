"""Repair a pruned network without training: a chain of recoveries."""

import logging
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline.network.calibration import calibration_of
from pipeline.network.plan import PruningPlan
from pipeline.network.run import compute_device
from pipeline.network.weights import write_weights
from pipeline.repair.chain import repair
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.store.artifacts import Checkpoint, Recovered
from pipeline.store.manifest import write_json
from pipeline.store.reports import RepairReport
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
    VERSION: ClassVar[int] = 2

    chain: tuple[Annotated[Recovery, *choice("pipeline.repair.recoveries", Recovery)], ...] = Field(
        default=(LeastSquares(),), min_length=1
    )
    samples: PositiveInt = 1000
    """Calibration samples, of every class alike, from the training data."""
    seed: NonNegativeInt = 0

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        if source.teacher is None or source.plan is None:
            raise ConfigError("only a pruned network can be recovered: prune it first")
        device = compute_device()
        network, dense = source.network().to(device), source.teacher.network().to(device)
        calibration = calibration_of(source.task, self.samples, self.seed, device)
        plan = read_spec(source.plan, PruningPlan)
        done = repair(network, dense, plan, self.chain, calibration, source.task.loss)
        for one in done:
            log.info(
                "  %s: from the dense network %s -> %s%s",
                *(one.name, *map(_figure, (one.distance_before, one.distance_after))),
                "" if one.kept else ", undone",
            )
            for remark in one.remarks:
                log.warning("  %s: %s", one.name, remark)
        write_json(out / "recover.json", RepairReport(recoveries=done))
        write_weights(network, out / "model.safetensors")

    def load(self, source: Checkpoint, out: Path, key: str) -> Recovered:
        return Recovered(key, source.task, out / "model.safetensors", source.plan, source.teacher)


def _figure(distance: float | None) -> str:
    return "not finite" if distance is None else f"{distance:.4f}"
