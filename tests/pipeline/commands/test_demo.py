"""The example that comes with slimgate is a valid recipe for a network that prunes."""

from importlib import resources
from pathlib import Path

import pytest

from pipeline.recipe import read_recipe
from profiles.plugins import plugin_names


@pytest.mark.parametrize("left_out", [False, True])
def test_the_demo_recipe_is_resolved_with_its_own_multiple_or_the_devices(
    left_out: bool, tmp_path: Path
) -> None:
    text = (resources.files("pipeline.commands") / "example" / "recipe.toml").read_text()
    lines = [line for line in text.splitlines() if not (left_out and "multiple" in line)]
    (tmp_path / "recipe.toml").write_text("\n".join(lines))
    recipe, (target,) = read_recipe(tmp_path / "recipe.toml")
    found = recipe.prune.multiple, recipe.prune.preferred_multiple
    assert found == ((None, target.device.channel_multiple) if left_out else (8, None))
    assert target.device.channel_multiple == 16
    assert recipe.finetune is not None


def test_the_plugins_are_found_by_their_files() -> None:
    assert {"magnitude", "pro", "reconstruction"} <= set(plugin_names("pipeline.prune.criteria"))
