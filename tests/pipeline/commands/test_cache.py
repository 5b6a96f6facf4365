"""What is in the store, whether it is whole, and clearing it of nothing that is in use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

import pytest
from filelock import FileLock
from user_project import Project

from pipeline.store.artifacts import Artifact
from pipeline.store.manifest import MANIFEST
from pipeline.store.stage import Stage
from pipeline.store.store import Store

LONG_AGO = time.time() - 10 * 86400


class Text(Stage[Artifact, Artifact]):
    """Writes a text so many times."""

    text: str
    times: int

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        (out / "text").write_text(self.text * self.times)

    def load(self, source: Artifact, out: Path, key: str) -> Artifact:
        return Artifact(key)


SOURCE = Artifact("source")
STAGES = {"small": Text(text="a", times=1), "large": Text(text="b", times=3_000_000)}
KEYS = {name: stage.key(SOURCE) for name, stage in STAGES.items()}


class Row(TypedDict):
    """A result in the JSON of `cache list` and `cache verify`."""

    key: str
    stage: str
    bytes: int
    state: str


@pytest.fixture
def stored(project: Project) -> Project:
    """A project whose store has two results that nobody uses."""
    fill(project)
    return project


def fill(project: Project) -> Store:
    """A run that has made, or used, both results."""
    store = Store(project.cache)
    for name, stage in STAGES.items():
        store.run(name, stage, SOURCE)
    return store


def rows(project: Project, verb: str) -> list[Row]:
    found: list[Row] = json.loads(project.slimgate("cache", verb, "--json").out)["results"]
    return found


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_list_names_every_result_with_its_stage_and_size(stored: Project) -> None:
    found = {row["stage"]: row for row in rows(stored, "list")}
    assert {name: row["key"] for name, row in found.items()} == KEYS
    done = stored.cache / "done"
    assert all(row["bytes"] == bytes_of(done / row["key"]) for row in found.values())
    lines = stored.slimgate("cache", "list").out.splitlines()
    assert lines[0].split() == ["key", "stage", "MiB", "made", "last", "used"]
    assert {tuple(line.split()[:3]) for line in lines[1:]} == {
        (KEYS["small"][:16], "small", "0.00"),
        (KEYS["large"][:16], "large", "2.86"),
    }


def test_the_size_is_that_of_all_results_and_of_what_was_cut_short(stored: Project) -> None:
    scratch = stored.cache / "scratch" / ("e" * 64)
    scratch.mkdir()
    (scratch / "epoch").write_bytes(b"0" * 5)
    found = json.loads(stored.slimgate("cache", "size", "--json").out)
    assert found == {
        "schema_version": 1,
        "results": 2,
        "result_bytes": bytes_of(stored.cache / "done"),
        "unfinished_bytes": 5,
    }
    assert "2 results, 2.9 MiB" in stored.slimgate("cache", "size").out


def test_a_store_that_there_is_not_yet_is_empty_and_is_not_made(project: Project) -> None:
    for arguments in (["list"], ["size"], ["verify"], ["clear", "--all"]):
        assert project.slimgate("cache", *arguments).code == 0
    assert not project.cache.exists()


def test_damaged_results_are_named_and_left(stored: Project) -> None:
    assert stored.slimgate("cache", "verify").out.endswith("2 results, all whole\n")
    path = stored.cache / "done" / KEYS["small"] / "text"
    path.write_text("x")
    said = f"damaged: {KEYS['small'][:16]} small: {path} does not have the content"
    stored.slimgate("cache", "verify").says(7, said)
    outcome = stored.slimgate("cache", "verify", "--json")
    assert outcome.code == 7
    states = {row["stage"]: row["state"] for row in json.loads(outcome.out)["results"]}
    assert states == {"small": "damaged", "large": "whole"}
    assert path.read_text() == "x"


def test_a_result_that_cannot_be_read_is_not_called_damaged(stored: Project) -> None:
    manifest = stored.cache / "done" / KEYS["small"] / MANIFEST
    manifest.unlink()
    manifest.symlink_to("/proc/self/mem")  # opens, and cannot be read
    said = f"unreadable: {KEYS['small'][:16]} small: {manifest}: cannot be read"
    stored.slimgate("cache", "verify").says(5, said)


def left(project: Project) -> set[str]:
    names = {key: name for name, key in KEYS.items()}
    return {names[key] for key in project.stages()}


@pytest.mark.parametrize(
    "arguments", [(), ("--all", "--older-than", "3"), ("--all", "--key", "0" * 64)]
)
def test_what_to_clear_must_be_said_once(stored: Project, arguments: tuple[str, ...]) -> None:
    stored.slimgate("cache", "clear", *arguments).says(2, "give one of --all, --older-than DAYS")
    assert left(stored) == {"small", "large"}


def test_one_result_is_cleared_by_its_key(stored: Project) -> None:
    outcome = stored.slimgate("cache", "clear", "--key", KEYS["large"][:16])
    assert outcome.out.endswith("removed 1, 2.9 MiB\n")
    assert left(stored) == {"small"}


@pytest.mark.parametrize("key", ["", KEYS["small"][:15], "0" * 64])
def test_a_key_that_is_none_clears_nothing(stored: Project, key: str) -> None:
    stored.slimgate("cache", "clear", "--key", key).says(2, "is no key of the store")
    assert left(stored) == {"small", "large"}


def test_what_was_not_used_for_long_is_cleared(stored: Project) -> None:
    for name in KEYS:
        os.utime(stored.cache / "done" / KEYS[name], (LONG_AGO, LONG_AGO))
    assert stored.slimgate("cache", "clear", "--older-than", "11").code == 0
    assert left(stored) == {"small", "large"}
    Store(stored.cache).run("small", STAGES["small"], SOURCE)
    assert stored.slimgate("cache", "clear", "--older-than", "9").code == 0
    assert left(stored) == {"small"}


def test_everything_is_cleared_but_what_no_store_has_made(stored: Project) -> None:
    for name in (f"scratch/{'e' * 64}", "done/notes", "scratch/notes"):
        (stored.cache / name).mkdir()
    assert stored.slimgate("cache", "clear", "--all").code == 0
    assert {path.name for path in (stored.cache / "done").iterdir()} == {"notes"}
    assert {path.name for path in (stored.cache / "scratch").iterdir()} == {"notes"}
    assert not list((stored.cache / "work").iterdir())
    fill(stored)


def test_what_a_run_uses_or_makes_is_kept_until_it_ends(stored: Project) -> None:
    making = "f" * 64
    (stored.cache / "scratch" / making).mkdir()
    user = Store(stored.cache)
    user.run("small", STAGES["small"], SOURCE)
    with FileLock(stored.cache / "locks" / making):
        outcome = stored.slimgate("cache", "clear", "--all", "--json")
    found = json.loads(outcome.out)
    assert found["removed"] == [KEYS["large"]]
    assert set(found["in_use"]) == {KEYS["small"], making}
    assert left(stored) == {"small"}
    said = stored.slimgate("cache", "clear", "--key", KEYS["small"]).out
    assert f"in use, kept: {KEYS['small'][:16]} small" in said
    del user
    stored.slimgate("cache", "clear", "--all")
    assert left(stored) == set()
    assert not (stored.cache / "scratch" / making).exists()


def test_what_a_run_has_used_that_was_killed_is_cleared(stored: Project) -> None:
    program = (
        "import sys, time; from pathlib import Path; from pipeline.store.locks import Locks\n"
        "locks = Locks(Path(sys.argv[1])); locks.use(sys.argv[2])\n"
        "print('used', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(stored.cache / "locks"), KEYS["small"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stored.slimgate("cache", "clear", "--all")
        assert left(stored) == {"small"}
        process.send_signal(signal.SIGKILL)
    stored.slimgate("cache", "clear", "--all")
    assert left(stored) == set()
    Store(stored.cache)
    assert not list((stored.cache / "locks").glob("*.*"))


@pytest.mark.parametrize("arguments", [("list",), ("size",), ("verify",), ("clear", "--all")])
def test_a_folder_that_is_no_store_is_refused(project: Project, arguments: tuple[str, ...]) -> None:
    (project.folder / "done" / KEYS["small"]).mkdir(parents=True)
    before = set(project.folder.rglob("*"))
    outcome = project.slimgate("cache", *arguments, "--cache", project.folder)
    outcome.says(2, "which no store has made")
    assert set(project.folder.rglob("*")) == before
