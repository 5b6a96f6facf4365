"""The example that comes with slimgate is a valid recipe for a network that prunes."""

from importlib import resources
from pathlib import Path

from pipeline.recipe import read_recipe
from profiles.plugins import plugin_names


def test_the_demo_recipe_is_resolved_with_its_devices_multiple() -> None:
    with resources.as_file(resources.files("pipeline") / "example" / "recipe.toml") as path:
        recipe, device = read_recipe(Path(path))
    assert recipe.prune.multiple == recipe.prune.floor == device.channel_multiple == 8
    assert recipe.finetune is not None


def test_the_plugins_are_found_by_their_files() -> None:
    assert {"magnitude", "pro", "reconstruction"} <= set(plugin_names("pipeline.criteria"))
