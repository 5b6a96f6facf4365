"""Recipe: everything a run needs to be told. Its fields are stages."""

from pathlib import Path

from pipeline.measure import Measure
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
    recover: Recover | None = Recover()
    finetune: FineTune | None = None
    export: Export = Export()
    target: Target
    measure: Measure = Measure()


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
    if prune.macs_ratio is None and prune.allocator.knob() is None:
        if recipe.target.budget.macs_ratio is None:
            raise ConfigError(
                f"{path}: prune: how much? set prune.macs_ratio, target.budget.macs_ratio, "
                "or the allocator's own ratios"
            )
        prune = prune.model_copy(update={"macs_ratio": recipe.target.budget.macs_ratio})
    return recipe.model_copy(update={"prune": prune}), device
