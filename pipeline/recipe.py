"""Recipe: everything a run needs to be told. Its fields are stages."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from pipeline.measure import Measure
from pipeline.schedule import Schedule
from pipeline.stages.check import Check
from pipeline.stages.export import Export
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.task import TaskSpec
from profiles.device import Budget, DeviceProfile, load_device
from profiles.errors import ConfigError
from profiles.plugins import plugin_names
from profiles.spec import Spec, read_spec


class Target(Spec):
    """The device, and what the engine may cost on it."""

    device: str = "host"
    """The name of a device profile, or the path of your own `.toml`."""
    budget: Budget


class Recipe(Spec):
    """A trained network, what to do with it, and the budget to be met."""

    task: TaskSpec
    prune: Prune = Prune()
    schedule: Schedule = Schedule()
    recover: Recover | None = Recover()
    finetune: FineTune | None = None
    checks: Check | None = None
    export: Export = Export()
    target: Target
    measure: Measure = Measure()

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

    def prunes(self) -> tuple[Prune, ...]:
        """The pruning of each step of the schedule.

        Raises ConfigError for steps without a MACs target to reach in them.
        """
        ratio = self.prune.macs_ratio
        if self.schedule.steps == 1:
            return (self.prune,)
        if ratio is None:
            raise ConfigError("schedule.steps: steps to what? set prune.macs_ratio")
        first, *later = self.schedule.targets(ratio)
        return (
            self.prune.model_copy(update={"macs_ratio": first}),
            *(self.prune.model_copy(update={"macs_ratio": r, "blocks": 0}) for r in later),
        )

    def between(self) -> FineTune | None:
        """The training between two steps of the schedule."""
        if self.finetune is None or not self.schedule.epochs:
            return None
        return self.finetune.model_copy(update={"epochs": self.schedule.epochs})


def read_recipe(path: Path) -> tuple[Recipe, DeviceProfile]:
    """A recipe with nothing left open, and its device.

    What `prune` leaves open comes from the device's channel multiple and the budget's MACs
    ratio. Raises ConfigError naming each wrong key.
    """
    recipe = read_spec(path, Recipe)
    try:
        device = load_device(recipe.target.device, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: target.device: {error}") from error
    engines = plugin_names("exporters.engines")
    if device.engine not in engines:
        raise ConfigError(
            f"{path}: target.device: {recipe.target.device} has the engine {device.engine!r}, "
            f"which is none of: {', '.join(engines)}"
        )
    prune = recipe.prune.resolved(device.channel_multiple)
    if not prune.says_how_much():
        if recipe.target.budget.macs_ratio is None:
            raise ConfigError(
                f"{path}: prune: how much? set prune.macs_ratio, target.budget.macs_ratio, "
                "or the allocator's own ratios"
            )
        prune = prune.model_copy(update={"macs_ratio": recipe.target.budget.macs_ratio})
    resolved = recipe.model_copy(update={"prune": prune})
    try:
        resolved.prunes()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return resolved, device
