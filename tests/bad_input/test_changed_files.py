"""A user's file that is replaced while a run reads it leaves no result under the old key."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import Tints, checkpoint, folder
from user_project import NETWORK, TASK, Project

from pipeline.data.arrays import FloatArray
from pipeline.data.digest import path_files
from pipeline.data.input_files import InputFiles, input_files
from pipeline.data.origin import TaskOrigin
from pipeline.stages.finetune import FineTune
from profiles.errors import ConfigError

CHANGED = "was changed while slimgate was reading it"
SWAP = """

def swapping(build):
    from pathlib import Path

    def network():
        for new in Path(__file__).parent.glob("*.new"):
            new.replace(new.with_suffix(""))
        return build()

    return network


network = swapping(network)
"""
"""Puts NAME.new in the place of NAME once the run has begun."""


def put_new(project: Project, name: str) -> None:
    """Another version of a file, to be put in its place: as good as the old one."""
    path = project.folder / name
    new = path.with_name(f"{name}.new")
    shutil.copyfile(path, new)
    if path.suffix == ".py":
        new.write_text(path.read_text() + "\n# another version\n")


@pytest.mark.parametrize("name", ["weights.safetensors", "data.npz", "net.py", "blocks.py"])
def test_a_file_that_is_replaced_while_it_is_read_leaves_no_result(
    name: str, project: Project
) -> None:
    (project.folder / "blocks.py").write_text(NETWORK)
    (project.folder / "net.py").write_text("from blocks import network\n" + SWAP)
    put_new(project, name)
    project.refuses(2, f"{project.folder.resolve() / name}: {CHANGED}", "run again")


def test_an_input_of_a_task_in_python_that_is_replaced_leaves_no_result(project: Project) -> None:
    (project.folder / "images").mkdir()
    (project.folder / "images" / "one.bin").write_bytes(b"one")
    (project.folder / "images" / "one.bin.new").write_bytes(b"two")
    swap = SWAP.replace('"*.new"', '"images/*.new"')
    project.task_recipe(TASK.replace("\n\nclass", swap + "\n\nclass", 1))
    project.recipe(task={"file": "task.py:task", "inputs": ["images"]})
    project.refuses(2, "images/one.bin", CHANGED)
    assert project.prune().code == 0


def test_images_that_are_replaced_while_they_are_measured_leave_no_bundle(
    released: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(released.bundle)

    def measure(*_: object) -> list[None]:
        (released.folder / "data.npz").touch()
        return []

    monkeypatch.setattr("pipeline.flow.measure_all", measure)
    outcome = released.slimgate("run", released.folder / "recipe.toml")
    assert outcome.code == 2
    assert f"data.npz: {CHANGED}" in outcome.err
    assert not released.bundle.exists()


class Replaced:
    """Data whose file is replaced as the sample of this number is read."""

    def __init__(self, data: Tints, file: Path, number: int) -> None:
        self._data, self._file, self._left = data, file, number

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        self._left -= 1
        if self._left == 0:
            self._file.write_text("another")
        return self._data[index]


@pytest.mark.parametrize(("number", "kept"), [(30, False), (250, True)])
def test_an_epoch_on_data_that_was_replaced_is_not_gone_on_from(
    number: int, kept: bool, tmp_path: Path
) -> None:
    file = tmp_path / "data"
    file.write_text("old")
    origin = TaskOrigin({}, {"data": input_files(file, path_files)}, {})
    source = replace(checkpoint(), origin=origin)
    task = replace(source.task, train=Replaced(Tints(160, 0), file, number))
    stage = FineTune(epochs=3, batch_size=32)
    with pytest.raises(ConfigError, match=CHANGED):
        stage.run(replace(source, task=task), folder(tmp_path / "out"), tmp_path / "scratch")
    assert (tmp_path / "scratch" / "epoch").exists() == kept


@pytest.fixture
def noted(tmp_path: Path) -> InputFiles:
    """A folder of two files, noted and read."""
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_text(name)
    found = input_files(tmp_path / "data", path_files)
    assert found.digest
    found.check_unchanged()
    return found


def rewrite_as_before(path: Path) -> None:
    """Other bytes, as many, in the same file, and the time put back: as `cp --preserve` may."""
    then = path.stat()
    path.write_text("x")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def remove(path: Path) -> None:
    path.unlink()


def replace_by_the_same(path: Path) -> None:
    new = path.with_name("new")
    shutil.copy2(path, new)
    new.replace(path)


def add_another(path: Path) -> None:
    path.with_name("another").touch()


@pytest.mark.parametrize("change", [rewrite_as_before, remove, add_another])
def test_every_change_is_seen(change: Callable[[Path], None], noted: InputFiles) -> None:
    change(noted.path / "b" / "file")
    with pytest.raises(ConfigError, match=rf"/b/(file|another): {CHANGED}"):
        noted.check_unchanged()


def test_what_changes_no_content_is_no_change(noted: InputFiles) -> None:
    replace_by_the_same(noted.path / "b" / "file")
    (noted.path / "a" / "file").chmod(0o600)
    (noted.path / "a" / "__pycache__").mkdir()
    (noted.path / "a" / "__pycache__" / "file.pyc").touch()
    noted.check_unchanged()
