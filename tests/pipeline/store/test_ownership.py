"""A store takes away only what it made: not a user's folder, whatever its files are called."""

import os
import threading
import time
from pathlib import Path

import pytest
from user_project import Project

from pipeline.store.ownership import FOLDERS, MARK
from pipeline.store.store import Store
from profiles.errors import ConfigError

KEY = "0" * 64
LONG_AGO = time.time() - 100 * 86400


def users_folder(root: Path) -> Path:
    """A folder with the very names a store uses, years old."""
    for name in ("work/thesis", "scratch/old"):
        (root / name).mkdir(parents=True)
        (root / name / "chapter.txt").write_text("mine")
        os.utime(root / name, (LONG_AGO, LONG_AGO))
    return root


def files_of(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["plan", "prune", "run"])
def test_a_folder_that_is_not_a_store_is_refused_and_left_as_it_is(
    project: Project, tmp_path: Path, verb: str
) -> None:
    root = users_folder(tmp_path / "papers")
    before = files_of(root)
    where = () if verb == "plan" else ("--out", project.folder / "out")
    outcome = project.slimgate(verb, project.folder / "recipe.toml", "--cache", root, *where)
    outcome.says(2, str(root), "scratch/old", "no store has made", "--cache")
    assert files_of(root) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_a_store_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    users = users_folder(tmp_path / "papers")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MARK).touch()
    (tmp_path / "store" / name).symlink_to(users / "work", target_is_directory=True)
    before = files_of(users)
    with pytest.raises(ConfigError, match=f"{name}: is a link or a file"):
        Store(tmp_path / "store")
    assert files_of(users) == before


def test_a_file_in_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        Store(tmp_path / "store")


def test_what_a_user_puts_into_a_store_stays_and_what_dead_runs_left_goes(tmp_path: Path) -> None:
    Store(tmp_path)
    for name in (f"work/{KEY}.abc", "work/notes", f"scratch/{KEY}", "scratch/notes"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    Store(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")}
    assert left & {"work/notes", "scratch/notes"} == {"work/notes", "scratch/notes"}
    assert not left & {f"work/{KEY}.abc", f"scratch/{KEY}"}


def test_a_store_of_before_there_were_marks_is_taken_and_marked(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / "done" / KEY).mkdir()
    Store(tmp_path)
    assert (tmp_path / MARK).is_file()
    assert (tmp_path / "done" / KEY).is_dir()


def test_many_runs_that_begin_together_on_a_new_store_all_have_it(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(16)

    def begin() -> None:
        start.wait()
        try:
            Store(tmp_path / "store")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
