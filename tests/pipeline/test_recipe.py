"""Schedules in numbers, and a network pruned in two steps through the store."""

from pathlib import Path

import pytest
from checkpoints import Tints
from networks import Residual, trained

from pipeline.flow import Flow
from pipeline.network.plan import PruningPlan, channels_of
from pipeline.recipe import Recipe, Schedule, Target, read_recipe, resolved_targets
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.store.artifacts import Checkpoint
from pipeline.store.results import Results
from pipeline.store.runner import DryRun
from pipeline.store.store import Store
from pipeline.task import FileTask, Task
from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.spec import read_spec


def test_one_step_goes_to_the_target_at_once() -> None:
    assert Schedule().targets(0.3) == (0.3,)


def test_the_cubic_schedule_removes_most_in_the_first_steps() -> None:
    targets = Schedule(steps=4).targets(0.2)
    assert targets == pytest.approx((0.2 + 0.8 * 27 / 64, 0.2 + 0.8 / 8, 0.2 + 0.8 / 64, 0.2))
    assert targets[-1] == 0.2


def test_power_one_removes_as_much_in_every_step() -> None:
    assert Schedule(steps=4, power=1).targets(0.6) == pytest.approx((0.9, 0.8, 0.7, 0.6))


TUNE = FineTune(epochs=2, learning_rate=0.02, batch_size=16)
PRUNE = Prune(macs_ratio=0.4, multiple=1, floor=1, samples=32)


def recipe(schedule: Schedule, prune: Prune = PRUNE, finetune: FineTune | None = TUNE) -> Recipe:
    return Recipe(
        task=FileTask(file="task.py:task"),
        prune=prune,
        schedule=schedule,
        recover=Recover(samples=32),
        finetune=finetune,
        target=(Target(budget=Budget(macs_ratio=0.5)),),
    )


def flow(asked: Recipe, runner: Store | DryRun) -> Flow:
    task = Task(lambda: trained(Residual), Tints(80, 0), Tints(40, 1))
    return Flow(
        asked, resolved_targets(asked, Path()), Checkpoint("dense", task, None, None), runner
    )


def test_two_steps_end_at_the_target_with_one_plan_of_the_dense_network(tmp_path: Path) -> None:
    store = Store(tmp_path)
    steps = flow(recipe(Schedule(steps=2, power=1, epochs=1)), store)
    tuned = steps.finetuned()
    assert [record.name for record in store.records] == [
        *("prune 1", "recover 1", "finetune 1", "prune", "recover", "finetune")
    ]
    pruned = steps.pruned()
    assert pruned.teacher == tuned.teacher == steps.dense
    report = pruned.report()
    assert (report.macs_ratio_asked, report.macs_dense) == (0.4, 64 * (216 + 4 * 432) + 32)
    assert 0.25 < report.macs_ratio <= 0.4
    assert report.macs == report.macs_ratio * report.macs_dense
    assert {name: group.units for name, group in report.groups.items()} == {
        "stem": 8,
        "inner.0": 6,
        "inner.1": 6,
    }
    dense = dict(steps.dense.network().named_modules())
    small = dict(tuned.network().named_modules())
    assert pruned.plan.read_bytes() == (tuned.plan or Path()).read_bytes()
    for name, layer in read_spec(pruned.plan, PruningPlan).layers.items():
        if layer.out:
            assert layer.out.of == channels_of(dense[name], "out")
            assert len(layer.out.channels) == channels_of(small[name], "out")
    groups = {name: group.kept for name, group in report.groups.items()}
    assert groups == {name: channels_of(small[name], "out") for name in groups}


def test_the_first_step_leaves_more_than_the_last(tmp_path: Path) -> None:
    first, last = recipe(Schedule(steps=2)).prune_steps()
    assert first == PRUNE.model_copy(update={"macs_ratio": 0.4 + 0.6 / 8})
    assert last == PRUNE
    planned = DryRun(Results(tmp_path))
    flow(recipe(Schedule(steps=2)), planned).recovered()
    assert [row.name for row in planned.records] == ["prune 1", "recover 1", "prune", "recover"]


def test_one_step_is_the_very_result_of_a_recipe_without_a_schedule(tmp_path: Path) -> None:
    rows = []
    for asked in (recipe(Schedule(power=2, epochs=1)), recipe(Schedule())):
        planned = DryRun(Results(tmp_path))
        flow(asked, planned).finetuned()
        rows.append(planned.records)
    assert rows[0] == rows[1]


def test_training_between_steps_has_the_settings_of_the_last_one() -> None:
    assert recipe(Schedule(steps=2)).finetune_between_steps() is None
    between = recipe(Schedule(steps=2, epochs=1)).finetune_between_steps()
    assert between == TUNE.model_copy(update={"epochs": 1})


RECIPE = """
[task]
file = "task.py:task"
[prune]
allocator = {allocator}
[schedule]
steps = 3
epochs = {epochs}
[target]
budget = {{ macs_ratio = 0.5 }}
"""


def written(folder: Path, epochs: int = 0, allocator: str = '"uniform"') -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(epochs=epochs, allocator=allocator))
    return path


def test_epochs_between_steps_need_the_settings_of_a_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.toml: schedule.epochs needs .* \[finetune\]"):
        read_recipe(written(tmp_path, epochs=1))


def test_steps_share_the_target_that_comes_from_the_budget(tmp_path: Path) -> None:
    asked, _ = read_recipe(written(tmp_path))
    assert [prune.macs_ratio for prune in asked.prune_steps()] == list(asked.schedule.targets(0.5))


def test_steps_without_a_target_are_refused(tmp_path: Path) -> None:
    table = '{ name = "table", preset = "resnet56-49.3" }'
    message = r"recipe.toml: schedule.steps = 3, but .*set prune.macs_ratio = 0.5"
    with pytest.raises(ConfigError, match=message):
        read_recipe(written(tmp_path, allocator=table))
