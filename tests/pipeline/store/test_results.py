"""What is damaged is told from what cannot be read, and only a run removes anything."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pytest
from read_errors import no_more_files_to_open
from user_project import Project

from pipeline.store.artifacts import Artifact
from pipeline.store.manifest import MANIFEST, write_manifest
from pipeline.store.results import Results
from pipeline.store.stage import Stage
from pipeline.store.store import Store
from profiles.errors import StageError

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


class Write(Stage[Artifact, Artifact]):
    """Writes a file in a folder."""

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        (out / "folder").mkdir()
        (out / "folder" / "text").write_text("a")

    def load(self, source: Artifact, out: Path, key: str) -> Artifact:
        return Artifact(key)


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The key of a result in the store at `tmp_path`."""
    return Store(tmp_path).run("write", Write(), Artifact("source")).key


def files_of(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@pytest.mark.parametrize("name", ["folder/text", "folder", MANIFEST, "."])
def test_a_result_that_may_not_be_read_is_kept(name: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "done" / key / name
    mode = path.stat().st_mode
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(mode)
        pytest.skip("this user may read everything")
    with pytest.raises(StageError, match=r"cannot be read \(Permission denied\).*left as it is"):
        Store(tmp_path).run("write", Write(), Artifact("source"))
    assert Results(tmp_path).examine(key).state == "unreadable"
    path.chmod(mode)
    assert Results(tmp_path).examine(key).state == "whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "stat", "scandir"])
def test_an_error_of_reading_that_passes_removes_no_result(
    call: str, number: int, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = Store(tmp_path), files_of(tmp_path / "done")
    with monkeypatch.context() as patch:
        failing(patch, call, tmp_path / "done" / key / "folder", number)
        assert Results(tmp_path).examine(key).state == "unreadable"
        with pytest.raises(StageError, match="cannot be read"):
            store.run("write", Write(), Artifact("source"))
    assert files_of(tmp_path / "done") == before
    store.run("write", Write(), Artifact("source"))
    assert [record.cached for record in store.records] == [True]


def failing(patch: pytest.MonkeyPatch, call: str, folder: Path, number: int) -> None:
    """Have the system refuse one call on what is in `folder`."""

    def refusing(
        function: Callable[Concatenate[Path, Rest], Result],
    ) -> Callable[Concatenate[Path, Rest], Result]:
        def called(path: Path, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
            if str(path).startswith(str(folder)):
                raise OSError(number, os.strerror(number), str(path))
            return function(path, *rest, **named)

        return called

    if call == "scandir":
        patch.setattr("os.scandir", refusing(os.scandir))
    elif call == "stat":
        patch.setattr(Path, "stat", refusing(Path.stat))
    else:
        patch.setattr(Path, "open", refusing(Path.open))


def test_a_result_is_kept_where_no_more_files_can_be_opened(key: str, tmp_path: Path) -> None:
    before = files_of(tmp_path / "done")
    with no_more_files_to_open():
        assert Results(tmp_path).examine(key).state == "unreadable"
    assert files_of(tmp_path / "done") == before
    assert Results(tmp_path).examine(key).state == "whole"


@pytest.fixture
def stored(project: Project) -> list[Path]:
    """The folders of results of every stage of a recipe, in their order, in the project's store.

    A killed run has left something in the store too, and one of long ago.
    """
    Store(project.cache)
    recipe = project.folder / "recipe.toml"
    stages = json.loads(project.slimgate("plan", recipe, "--json").out)["stages"]
    folders = [project.cache / "done" / stage["key"] for stage in stages]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_text("whole")
        write_manifest(folder, 0.0)
    for name in (f"work/{'a' * 64}.x", f"scratch/{'b' * 64}"):
        (project.cache / name).mkdir()
        os.utime(project.cache / name, (0, time.time() - 100 * 86400))
    return folders


def test_a_plan_removes_nothing_and_says_how_each_result_stands(
    stored: list[Path], project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, unreadable, absent, *_ = stored
    (damaged / "file").write_text("")
    (unreadable / MANIFEST).unlink()
    (unreadable / MANIFEST).symlink_to("/proc/self/mem")  # opens, and cannot be read
    shutil.rmtree(absent)
    before = files_of(project.cache)
    outcome = project.slimgate("plan", project.folder / "recipe.toml")
    assert outcome.code == 0
    words = [line.split("  ")[0] for line in outcome.out.splitlines()]
    assert words == ["damaged, to run", "unreadable", "to run", *["cached"] * 3, "always"]
    assert f"{damaged / 'file'} does not have the size in its manifest" in caplog.text
    assert f"{unreadable / MANIFEST}: cannot be read (Input/output error)" in caplog.text
    assert files_of(project.cache) == before


def test_a_plan_makes_no_store(project: Project) -> None:
    assert project.slimgate("plan", project.folder / "recipe.toml").code == 0
    assert not project.cache.exists()
