"""Baselines that a pruned network ought to beat. They change no model."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from pipeline.network.calibration import calibration_of_task
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.proof_inputs import proof_samples
from pipeline.network.run import compute_device
from pipeline.prune.baselines import (
    even_plan,
    random_plan,
    rank_correlation,
    repaired_baseline,
    reset_weights,
    validation_score,
)
from pipeline.prune.prunable import find_prunable
from pipeline.prune.trials import TrialSetup, trial_setup
from pipeline.stages.finetune import FineTune
from pipeline.store.artifacts import Checked, Pruned
from pipeline.store.files import write_json
from pipeline.store.reports import Baseline, CheckReport
from pipeline.store.stage import Stage
from pipeline.task import Task
from pipeline.train.loop import train
from pipeline.train.progress import ProgressFile
from profiles.errors import ConfigError
from profiles.spec import read_spec

log = logging.getLogger("slimgate")

FEWEST_PLANS = 8
"""Fewer say nothing about a rank correlation."""


def _enough_plans(plans: int) -> int:
    if 0 < plans < FEWEST_PLANS:
        raise ValueError(f"give 0 or at least {FEWEST_PLANS} plans")
    return plans


class Check(Stage[Pruned, Checked]):
    """Random channels, training from scratch, and whether a small distance means a high score."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    VERSION: ClassVar[int] = 5

    random_seeds: PositiveInt = 5
    """The number of plans that keep as many channels of each group, drawn at random."""
    scratch: bool = False
    """Train the pruned network, and one of even widths and the same MACs ("small dense"), from
    new weights with the settings of [finetune]."""
    correlation_plans: Annotated[NonNegativeInt, AfterValidator(_enough_plans)] = 0
    """The number of random plans to repair and fine-tune, for Kendall's tau between nearness to the
    dense network and score."""
    samples: PositiveInt = 1000
    """The number of calibration samples, of every class alike, from the training data."""
    seed: NonNegativeInt = 0
    """What calibration samples and new weights depend on."""
    memory_gib: PositiveFloat | None = Field(default=None, exclude=True)
    """How much of what is computed of the samples is held in memory, and not in a temporary file;
    half of the free memory when not given. Less makes it slower, not other."""
    finetune: FineTune | None = None
    """The settings of the training; the recipe's [finetune] when not given."""

    def run(self, source: Pruned, out: Path, scratch: Path) -> None:
        if source.teacher is None:
            raise ConfigError("only a pruned network can be checked: prune it first")
        task, device = source.task, compute_device()
        dense = source.teacher.network().to(device)
        calibration = calibration_of_task(task, self.samples, self.seed, device, self.memory_gib)
        setup = trial_setup(dense, calibration, task.loss)
        prunable = find_prunable(dense, proof_samples(calibration.inputs))
        plan, pruned = read_spec(source.plan, PruningPlan), source.report()
        counts = {name: group.kept for name, group in pruned.groups.items()}

        def random(seed: int) -> PruningPlan:
            return random_plan(prunable, counts, plan.skipped, seed)

        baselines = [repaired_baseline("chosen", setup, plan)]
        for seed in range(self.random_seeds):
            baselines.append(repaired_baseline(f"random {seed}", setup, random(seed)))
        if self.scratch:
            plans = {"from scratch": plan, "small dense": even_plan(prunable, pruned.macs)}
            baselines += self._trained_from_scratch(dense, plans, source, scratch)
        seeds = range(self.random_seeds, self.random_seeds + self.correlation_plans)
        pairs = self._nearness_and_score(setup, map(random, seeds), source, scratch)
        report = CheckReport(
            baselines=tuple(baselines), kendall_tau=rank_correlation(pairs), plans=len(pairs)
        )
        for one in baselines:
            log.info("  %s: distance %s, score %s", one.name, one.distance, one.score)
        write_json(out / "check.json", report)

    def load(self, source: Pruned, out: Path, key: str) -> Checked:
        return Checked(key, out)

    def _trained_from_scratch(
        self, dense: nn.Module, plans: Mapping[str, PruningPlan], source: Pruned, scratch: Path
    ) -> list[Baseline]:
        """The scores of the dense network pruned by each plan and trained from new weights."""
        found = []
        for name, plan in plans.items():
            network = apply_plan(dense, plan)
            reset_weights(network, self.seed)
            saved = ProgressFile(scratch / name, source.check_unchanged)
            score = self._score_after_training(network, source.task, saved)
            found.append(Baseline(name=name, distance=None, score=score))
        return found

    def _nearness_and_score(
        self, setup: TrialSetup, plans: Iterable[PruningPlan], source: Pruned, scratch: Path
    ) -> list[tuple[float, float]]:
        """For each plan, the negative distance after repair, and the score after training."""
        pairs = []
        for number, plan in enumerate(plans):
            network, distance = setup.try_plan(plan)
            saved = ProgressFile(scratch / f"plan {number}", source.check_unchanged)
            pairs.append((-distance, self._score_after_training(network, source.task, saved)))
        return pairs

    def _score_after_training(self, network: nn.Module, task: Task, saved: ProgressFile) -> float:
        """The validation score after training on the task's loss alone."""
        if self.finetune is None:
            raise ConfigError("checks that train need the settings of [finetune]; add that table")
        alone = self.finetune.model_copy(update={"distill": 0.0})
        train(network, None, task, alone, saved)
        return validation_score(network, task)
