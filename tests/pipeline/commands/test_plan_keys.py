"""A plan shows what each key depends on, and what of it differs from what is stored."""

import json
from pathlib import Path
from typing import TypedDict

import pytest
from pydantic import JsonValue
from user_project import NETWORK, Project

from pipeline.data.digest import file_digest, value_digest
from pipeline.store.artifacts import Artifact
from pipeline.store.files import write_json
from pipeline.store.key_record import KEY_RECORD, KeyRecord, Parts, changes, read_key_record
from pipeline.store.manifest import MANIFEST, write_manifest
from pipeline.store.stage import Stage
from pipeline.store.store import Store


class Step(TypedDict):
    """The task or a stage in the JSON of a plan."""

    name: str
    key: str
    depends_on: dict[str, JsonValue]
    changed: dict[str, str | None]


class Planned(TypedDict):
    """The JSON of a plan."""

    task: Step
    stages: list[Step]


def plan(project: Project) -> Planned:
    outcome = project.slimgate("plan", project.folder / "recipe.toml", "--json")
    assert outcome.code == 0, outcome.err
    found: Planned = json.loads(outcome.out)
    return found


def keys_shown(project: Project) -> dict[str, list[str]]:
    """The lines beneath each stage."""
    outcome = project.slimgate("plan", project.folder / "recipe.toml", "--keys")
    assert outcome.code == 0, outcome.err
    found: dict[str, list[str]] = {}
    stage = ""
    for line in outcome.out.splitlines():
        if line.startswith("          "):
            found[stage].append(" ".join(line.split()))
        else:
            stage = line[8:].split("  ")[0]
            found[stage] = []
    return found


def test_every_key_is_the_digest_of_what_is_shown(project: Project) -> None:
    found = plan(project)
    steps = [found["task"], *found["stages"]]
    assert [step["name"] for step in steps] == [
        *("task", "prune", "recover", "export", "export dense", "build dense", "build")
    ]
    assert [value_digest(step["depends_on"]) for step in steps] == [step["key"] for step in steps]
    assert [step["changed"] for step in steps] == [{}] * len(steps)


def test_the_task_shows_every_file_with_its_digest(project: Project) -> None:
    (project.folder / "blocks.py").write_text(NETWORK)
    (project.folder / "net.py").write_text("from blocks import network\n")
    shown = keys_shown(project)
    for name, file in (("weights", "weights.safetensors"), ("data", "data.npz")):
        path = project.folder / file
        assert f"files.{name} {path} {file_digest(path)[:16]}" in shown["task"]
    code = next(line for line in shown["task"] if line.startswith("files.code"))
    assert all(str(project.folder / name) in code for name in ("net.py", "blocks.py"))
    assert {"stage Prune", "fields.macs_ratio 0.6"} <= set(shown["prune"])
    assert any(line.startswith("environment.torch ") for line in shown["prune"])
    assert any(line.startswith("source prune ") for line in shown["recover"])


def put_results(project: Project) -> None:
    """What a run would have stored, but for what its stages make."""
    found = plan(project)
    task, stages = found["task"], found["stages"]
    Store(project.cache)
    for stage in stages:
        folder = project.cache / "done" / stage["key"]
        folder.mkdir()
        first = stage["name"] in ("prune", "export dense")
        record = KeyRecord(
            stage=stage["name"],
            depends_on=stage["depends_on"],
            task=task["depends_on"] if first else None,
        )
        write_json(folder / KEY_RECORD, record)
        write_manifest(folder, 0.0)


def test_why_a_stage_runs_again_is_shown(project: Project) -> None:
    put_results(project)
    assert not [line for lines in keys_shown(project).values() for line in lines if "(was" in line]
    path = project.folder / "net.py"
    before = file_digest(path)
    path.write_text(path.read_text() + "# changed\n")
    project.recipe(recover={"samples": 16})
    changed = {
        stage: [line for line in lines if "(was" in line]
        for stage, lines in keys_shown(project).items()
    }
    assert [line.split("(was ")[1] for line in changed["task"]] == [f"{before[:16]})"]
    assert changed["task"][0].startswith("files.code ")
    assert [line.split()[0] for line in changed["prune"]] == ["source"]
    assert changed["recover"][0] == "fields.samples 16 (was 32)"
    assert [line.split()[0] for line in changed["build"]] == ["source"]
    assert set(plan(project)["stages"][0]["changed"]) == {"source"}


def test_the_nearest_of_what_is_stored_is_compared_with() -> None:
    now: Parts = {"fields": {"a": 1, "b": [{"c": 2}]}, "version": 3}
    far: Parts = {"fields": {"a": 2, "b": [{"c": 3}]}, "version": 3}
    more: Parts = {**now, "fields": {"a": 1, "b": [{"c": 2}, {"d": 4}]}}
    assert changes(now, [far, more]) == {"fields.b.1.d": "4"}
    assert changes(more, [now]) == {"fields.b.1.d": None}
    assert changes(now, [far]) == {"fields.a": "2", "fields.b.0.c": "3"}
    assert changes(now, [far, {**now, "version": 2}]) == {"version": "2"}
    assert changes(now, [far, now]) == changes(now, []) == {}


class Empty(Stage[Artifact, Artifact]):
    """Makes nothing."""

    size: int

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        pass

    def load(self, source: Artifact, out: Path, key: str) -> Artifact:
        return Artifact(key)


def test_a_result_keeps_what_its_key_was_made_of(tmp_path: Path) -> None:
    key = Store(tmp_path).run("empty 1", Empty(size=4), Artifact("source")).key
    record = read_key_record(tmp_path / "done" / key)
    assert record is not None
    assert (record.stage, record.task) == ("empty 1", None)
    assert value_digest(record.depends_on) == key
    assert record.depends_on["fields"] == {"size": 4}


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_a_result_whose_record_is_none_is_not_compared_with(
    text: str | None, project: Project
) -> None:
    put_results(project)
    for folder in (project.cache / "done").iterdir():
        (folder / KEY_RECORD).unlink()
        if text is not None:
            (folder / KEY_RECORD).write_text(text)
        (folder / MANIFEST).unlink()
        write_manifest(folder, 0.0)
    project.recipe(recover={"samples": 16})
    assert not [line for lines in keys_shown(project).values() for line in lines if "(was" in line]
