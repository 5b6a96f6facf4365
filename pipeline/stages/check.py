"""Baselines that a pruned network ought to beat. They change no model."""

import logging
from math import isfinite
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, NonNegativeInt, PositiveInt
from scipy.stats import kendalltau
from torch import nn

from pipeline.network.calibration import calibration_of
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.run import compute_device
from pipeline.prune.baselines import _even, _random, _renew, _tried, validation_score
from pipeline.prune.choose import subject_of
from pipeline.prune.trials import course_of
from pipeline.stages.finetune import FineTune
from pipeline.store.artifacts import Checked, Pruned
from pipeline.store.manifest import write_json
from pipeline.store.reports import Baseline, CheckReport
from pipeline.store.stage import Stage
from pipeline.task import Task
from pipeline.train.loop import train
from profiles.errors import ConfigError
from profiles.spec import read_spec

log = logging.getLogger("slimgate")

FEWEST_PLANS = 8
"""Fewer say nothing about a rank correlation."""


def _enough(plans: int) -> int:
    if 0 < plans < FEWEST_PLANS:
        raise ValueError(f"give 0 or at least {FEWEST_PLANS} plans")
    return plans


class Check(Stage[Pruned, Checked]):
    """Random channels, training from scratch, and whether the repaired distance foretells."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "numpy")

    random_seeds: PositiveInt = 5
    """Plans that keep as many channels of each group, drawn at random."""
    scratch: bool = False
    """Train the pruned network, and one of even widths and the same MACs ("small dense"), from
    new weights with the settings of [finetune]."""
    correlation_plans: Annotated[NonNegativeInt, AfterValidator(_enough)] = 0
    """Random plans to repair and fine-tune, for Kendall's tau between distance and score."""
    samples: PositiveInt = 1000
    seed: NonNegativeInt = 0
    finetune: FineTune | None = None
    """The recipe's [finetune] when not given."""

    def run(self, source: Pruned, out: Path, scratch: Path) -> None:
        if source.teacher is None:
            raise ConfigError("only a pruned network can be checked: prune it first")
        task, device = source.task, compute_device()
        dense = source.teacher.network().to(device)
        calibration = calibration_of(task, self.samples, self.seed, device)
        course = course_of(dense, calibration, task.loss)
        subject = subject_of(dense, calibration.inputs[:1])
        plan = read_spec(source.plan, PruningPlan)
        counts = {name: group.kept for name, group in source.report().groups.items()}
        rows = [_tried("chosen", course, plan)]
        rows += [
            _tried(f"random {seed}", course, _random(subject, counts, plan.skipped, seed))
            for seed in range(self.random_seeds)
        ]
        if self.scratch:
            even = _even(subject, source.report().macs)
            for name, shape in (("from scratch", plan), ("small dense", even)):
                network = apply_plan(dense, shape)
                _renew(network, self.seed)
                score = self._trained(network, task, scratch / f"{name}.safetensors")
                rows.append(Baseline(name=name, distance=None, score=score))
        pairs = []
        for seed in range(self.correlation_plans):
            other = _random(subject, counts, plan.skipped, self.random_seeds + seed)
            network, distance = course.run(other)
            score = self._trained(network, task, scratch / f"plan {seed}.safetensors")
            pairs.append((-distance, score))
        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic) if pairs else None
        report = CheckReport(
            baselines=tuple(rows),
            kendall_tau=tau if tau is not None and isfinite(tau) else None,
            plans=len(pairs),
        )
        for row in rows:
            log.info("  %s: distance %s, score %s", row.name, row.distance, row.score)
        write_json(out / "check.json", report)

    def load(self, source: Pruned, out: Path, key: str) -> Checked:
        return Checked(key, out)

    def _trained(self, network: nn.Module, task: Task, saved: Path) -> float:
        """The validation score after training on the task's loss alone."""
        if self.finetune is None:
            raise ConfigError("checks that train need the settings of [finetune]; add that table")
        alone = self.finetune.model_copy(update={"distill": 0.0})
        train(network, None, task, alone, saved)
        return validation_score(network, task)
