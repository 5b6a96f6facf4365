"""The recipe: everything a run depends on. Its fields are stages."""

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from exporters.exporter import exporter_class, resolved_device, runtime_names
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.measure.sessions import Measure
from pipeline.stages.check import Check
from pipeline.stages.export import Export
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.task import TaskSpec
from profiles.budget import Budget
from profiles.device import Ssh, load_device
from profiles.errors import ConfigError
from profiles.plugins import plugin_names
from profiles.spec import FileName, Spec, read_spec


class Schedule(Spec):
    """The gradual schedule of Zhu and Gupta (arXiv 1710.01878) on the part of the MACs kept.

    One step prunes at once. Many steps with `power` 1 and a short training after each prune a
    little, train a little.
    """

    steps: PositiveInt = 1
    """The number of steps."""
    power: PositiveFloat = 3.0
    """The exponent: 1 removes as much in every step; 3 removes most in the first ones."""
    epochs: NonNegativeInt = 0
    """The epochs of training between two steps, with the settings of `finetune`."""

    def targets(self, final_ratio: float) -> tuple[float, ...]:
        """The part of the dense MACs that is left after each step; `final_ratio` at the end."""
        return tuple(
            final_ratio + (1 - final_ratio) * (1 - step / self.steps) ** self.power
            for step in range(1, self.steps + 1)
        )


class Target(Spec):
    """A device, and what the engine may cost on it."""

    device: str = "host"
    """The name of a device profile, or the path of your own `.toml`."""
    name: FileName | None = None
    """The name in the verdict; the device's when left out."""
    ssh: Ssh | None = None
    """The address of the device; this machine when left out."""
    budget: Budget | None = None
    """What the engine may cost; the device profile's own budget when left out."""

    def resolved_name(self) -> str:
        """The name in the verdict: its own, or the device's."""
        return self.name or Path(self.device).stem


class Recipe(Spec):
    """A trained network, what to do with it, and the budget to be met."""

    task: TaskSpec
    prune: Prune = Prune()
    schedule: Schedule = Schedule()
    recover: Recover | None = Recover()
    finetune: FineTune | None = None
    checks: Check | None = None
    export: Export = Export()
    target: Annotated[tuple[Target, ...], Field(min_length=1)]
    """`[target]`, or a `[[target]]` for each device; all of them must pass."""
    measure: Measure = Measure()

    @field_validator("target", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if isinstance(value, list):
            return tuple(value)
        return (value,) if isinstance(value, (dict, Target)) else value

    @field_validator("target")
    @classmethod
    def _names_are_distinct(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [target.resolved_name() for target in targets]
        if len(set(names)) < len(names):
            raise ValueError("two targets have one name; give each a `name`")
        return targets

    @model_validator(mode="after")
    def _can_train_between_steps(self) -> Self:
        if self.schedule.epochs and self.finetune is None:
            raise ValueError("schedule.epochs needs the settings of [finetune]; add that table")
        return self

    def check(self) -> Check | None:
        """The checks, with the settings of [finetune] where they have none of their own."""
        if self.checks is None or self.checks.finetune is not None:
            return self.checks
        return self.checks.model_copy(update={"finetune": self.finetune})

    def prune_steps(self) -> tuple[Prune, ...]:
        """The pruning of each step of the schedule.

        Raises ConfigError for steps without a MACs target to reach in them.
        """
        ratio = self.prune.macs_ratio
        if self.schedule.steps == 1:
            return (self.prune,)
        if ratio is None:
            raise ConfigError(
                f"schedule.steps = {self.schedule.steps}, but prune.macs_ratio is missing, "
                "which the steps lead to: set prune.macs_ratio = 0.5, for example"
            )
        first, *later = self.schedule.targets(ratio)
        return (
            self.prune.model_copy(update={"macs_ratio": first}),
            *(self.prune.model_copy(update={"macs_ratio": r, "blocks": 0}) for r in later),
        )

    def finetune_between_steps(self) -> FineTune | None:
        """The training between two steps of the schedule."""
        if self.finetune is None or not self.schedule.epochs:
            return None
        return self.finetune.model_copy(update={"epochs": self.schedule.epochs})


def read_recipe(path: Path) -> tuple[Recipe, tuple[ResolvedTarget, ...]]:
    """A recipe with nothing left open, and its targets.

    What `prune` leaves open comes from the devices' channel multiples and the budgets' MACs
    ratios; without these a run measures what the budgets' times allow. Raises ConfigError naming
    each wrong key.
    """
    recipe = read_spec(path, Recipe)
    try:
        targets = resolved_targets(recipe, path.parent)
        prune = recipe.prune.resolved(
            math.lcm(*(target.device.channel_multiple for target in targets))
        )
        if not prune.has_target():
            ratios = [
                target.budget.macs_ratio
                for target in targets
                if target.budget.macs_ratio is not None
            ]
            if ratios:
                prune = prune.to(min(ratios))
            elif not any(target.times() for target in targets):
                raise ConfigError(
                    "nothing says how much to prune: set prune.macs_ratio = 0.5, for example, "
                    "target.budget.macs_ratio, a time such as target.budget.latency_p95_ms, or "
                    "the allocator's own ratios"
                )
        resolved = recipe.model_copy(update={"prune": prune})
        resolved.prune_steps()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return resolved, targets


def resolved_targets(recipe: Recipe, base: Path) -> tuple[ResolvedTarget, ...]:
    """The targets of a recipe whose paths are relative to `base`.

    Raises ConfigError for a device that there is not, or that cannot run the recipe.
    """
    return tuple(_resolved_target(target, recipe, base) for target in recipe.target)


def _resolved_target(target: Target, recipe: Recipe, base: Path) -> ResolvedTarget:
    try:
        device = load_device(target.device, base)
    except ConfigError as error:
        raise ConfigError(f"target.device: {error}") from error
    engines = runtime_names()
    if device.engine not in engines:
        raise ConfigError(
            f"target.device: {target.device} has the engine {device.engine!r}, "
            f"which is none of: {', '.join(engines)}"
        )
    boards = plugin_names("exporters.board.sessions")
    if target.ssh and device.engine not in boards:
        raise ConfigError(
            f"target.device: {target.device} has the engine {device.engine!r}, and over SSH "
            f"there are only: {', '.join(boards)}; run slimgate on the device itself"
        )
    if device.batch > 1 and not recipe.export.dynamic_batch:
        raise ConfigError(
            f"target.device: {target.device} runs batches of {device.batch}: "
            "set export.dynamic_batch = true"
        )
    largest = exporter_class(device.engine).LARGEST_BATCH
    if largest is not None and device.batch > largest:
        raise ConfigError(
            f"target.device: {target.device} runs batches of {device.batch}; "
            f"{device.engine} engines take {largest} at most"
        )
    budget = target.budget or device.budget
    if budget is None:
        raise ConfigError(f"target.budget: missing, and {target.device} has no default")
    ssh = target.ssh
    if ssh and ssh.key_file:
        ssh = ssh.model_copy(update={"key_file": str(base / ssh.key_file)})
    return ResolvedTarget(target.resolved_name(), resolved_device(device), budget, ssh)
