"""A stage that is made again takes those after it along, and the old result stays until then."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from user_project import Project

from pipeline.store.artifacts import Artifact
from pipeline.store.results import Results
from pipeline.store.runner import DryRun, Runner
from pipeline.store.stage import Stage
from pipeline.store.store import Store
from profiles.errors import StageError


@dataclass(frozen=True)
class Text(Artifact):
    """A result whose text can be read."""

    path: Path

    def text(self) -> str:
        return self.path.read_text()


class Append(Stage[Artifact, Text]):
    """The text before it, its own name, and the number of the run: no two results are alike."""

    RUNS: ClassVar[list[str]] = []
    FAILS: ClassVar[set[str]] = set()

    name: str

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        if self.name in self.FAILS:
            raise StageError("power cut")
        self.RUNS.append(self.name)
        before = source.text() if isinstance(source, Text) else ""
        (out / "text").write_text(f"{before}{self.name}{len(self.RUNS)} ")

    def load(self, source: Artifact, out: Path, key: str) -> Text:
        return Text(key, out / "text")


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    Append.RUNS.clear()
    Append.FAILS.clear()


def chain(runner: Runner) -> Text:
    """Three stages, of which each reads the one before it; the first is asked for twice."""
    found: Artifact = Artifact("source")
    for name in ("a", "b", "c"):
        text = runner.run(name, Append(name=name), found)
        assert runner.run(name, Append(name=name), found).key == text.key
        found = text
    assert isinstance(found, Text)
    return found


def run(root: Path, refresh: Collection[str] = ()) -> str:
    return chain(Store(root, refresh)).text()


def test_the_stages_after_a_refreshed_one_run_again_and_none_before_it(tmp_path: Path) -> None:
    assert run(tmp_path) == "a1 b2 c3 "
    assert run(tmp_path, ["b"]) == "a1 b4 c5 "
    assert run(tmp_path) == "a1 b4 c5 "
    assert run(tmp_path, ["b"]) == "a1 b6 c7 "
    assert run(tmp_path, ["a", "c"]) == "a8 b9 c10 "
    assert run(tmp_path) == "a8 b9 c10 "


def test_several_stages_may_be_refreshed_and_the_last_one_alone(tmp_path: Path) -> None:
    assert run(tmp_path) == "a1 b2 c3 "
    assert run(tmp_path, ["c"]) == "a1 b2 c4 "
    assert run(tmp_path) == "a1 b2 c4 "


def test_a_refresh_that_fails_leaves_the_old_result_in_use(tmp_path: Path) -> None:
    assert run(tmp_path) == "a1 b2 c3 "
    Append.FAILS.add("b")
    with pytest.raises(StageError, match="power cut"):
        run(tmp_path, ["b"])
    assert run(tmp_path) == "a1 b2 c3 "


def test_after_a_refresh_that_was_cut_short_no_later_stage_is_of_before(tmp_path: Path) -> None:
    assert run(tmp_path) == "a1 b2 c3 "
    Append.FAILS.add("b")
    with pytest.raises(StageError, match="power cut"):
        run(tmp_path, ["a"])
    Append.FAILS.clear()
    assert run(tmp_path) == "a4 b5 c6 "


def test_a_plan_of_a_refresh_knows_its_keys_and_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    dry = DryRun(Results(tmp_path), ["b"])
    chain(dry)
    found = [(row.name, row.found.state) for row in dry.records]
    assert found == [("a", "whole"), ("b", "absent"), ("c", "absent")]
    assert dry.records[1].depends_on["refreshed"] == 1
    assert run(tmp_path) == "a1 b2 c3 "
    store = Store(tmp_path, ["b"])
    chain(store)
    assert [row.key for row in store.records] == [row.key for row in dry.records]


@pytest.mark.parametrize("verb", ["plan", "run", "prune", "export", "build"])
def test_a_stage_that_there_is_not_is_refused_before_the_work(verb: str, project: Project) -> None:
    out = () if verb == "plan" else ("--out", project.out)
    recipe = project.folder / "recipe.toml"
    outcome = project.slimgate(verb, recipe, *out, "--refresh", "prune", "--refresh", "prun")
    outcome.says(2, "--refresh: 'prun' is no stage of this run, which has: prune, recover")
    assert not project.stages()


def test_a_plan_says_what_a_refresh_would_run_again(project: Project) -> None:
    recipe = project.folder / "recipe.toml"
    before, after = (
        project.slimgate("plan", recipe, *refresh).out.splitlines()
        for refresh in ((), ("--refresh", "export dense"))
    )
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert [line[8:21].strip() for line in changed] == ["export dense", "build dense"]
