"""A budget with a time, and nothing that says how much to prune: the time says it."""

import pytest
from user_project import Project

from pipeline.commands.steps import flow_on_devices
from pipeline.recipe import read_recipe
from pipeline.store.results import Results
from pipeline.store.runner import DryRun

UNSAID = {"macs_ratio": None}


@pytest.mark.parametrize("limit", ["latency_p95_ms", "latency_p50_ratio", "throughput_per_s"])
def test_a_time_in_the_budget_says_how_much_to_prune(limit: str, project: Project) -> None:
    path = project.recipe(prune=UNSAID, target={"budget": {limit: 0.9}})
    recipe, (target,) = read_recipe(path)
    assert not recipe.prune.has_target()
    assert target.times() == {limit}
    planned = DryRun(Results(project.cache))
    flow_on_devices(path, planned).recovered()
    timed, pruned, *_ = planned.records
    assert (timed.name, pruned.name) == ("time layers host", "prune")
    fields = pruned.depends_on["fields"]
    assert isinstance(fields, dict)
    assert set(fields) == {"prune", "export", "measure", "targets"}
    assert project.slimgate("plan", path).code == 0


def test_a_macs_ratio_goes_before_a_time(project: Project) -> None:
    budget = {"latency_p50_ratio": 0.9, "macs_ratio": 0.7}
    recipe, _ = read_recipe(project.recipe(prune=UNSAID, target={"budget": budget}))
    assert recipe.prune.macs_ratio == 0.7
    recipe, _ = read_recipe(project.recipe(target={"budget": {"latency_p50_ratio": 0.9}}))
    assert recipe.prune.macs_ratio == 0.6


def test_a_target_on_answers_alone_and_one_of_any_name_are_measured_for_what_they_have(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    path = project.recipe(prune={"macs_ratio": None, "parameters": None}, target=None)
    path.write_text(
        path.read_text()
        + """
[[target]]
name = "model"
device = "raspberry-pi-5"
budget = { top1_drop = 0.5 }
[[target]]
name = "dense"
budget = { latency_p50_ratio = 4 }
"""
    )
    outcome = project.prune()
    if outcome.code:  # another process has the machine
        outcome.says(5, "dense: Median time, shipped / dense: ", "prune.macs_ratio")
    else:
        assert "nothing was pruned" in caplog.text


@pytest.mark.parametrize("shown", [[], ["--json"], ["--keys"]])
def test_a_plan_tells_what_is_missing_to_know_the_rest(shown: list[str], project: Project) -> None:
    budget = {"latency_p95_ms": 20}
    path = project.recipe(prune=UNSAID, target={"device": "raspberry-pi-5", "budget": budget})
    outcome = project.slimgate("plan", path, *shown)
    assert outcome.code == 0
    assert "the rest is not known: raspberry-pi-5: times need the" in outcome.out


def test_what_is_measured_must_be_the_device(project: Project) -> None:
    budget = {"latency_p95_ms": 20}
    project.recipe(prune=UNSAID, target={"device": "raspberry-pi-5", "budget": budget})
    project.refuses(
        4,
        "raspberry-pi-5: times need the device itself",
        "is another machine (it",
        "target.ssh, or set prune.macs_ratio",
    )


def test_a_network_that_is_fast_enough_is_left_whole_or_the_noise_is_told(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.recipe(prune=UNSAID, target={"budget": {"latency_p50_ratio": 4}})
    outcome = project.prune()
    if outcome.code:  # another process has the machine
        outcome.says(5, "host: Median time, shipped / dense: ", "prune.macs_ratio")
    else:
        assert "nothing was pruned: the dense network meets the budget" in caplog.text
        assert (project.out / "model.safetensors").exists()
