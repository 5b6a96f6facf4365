"""A stage's key covers every file of the user's that the user's code loads."""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest
from user_project import NETWORK, TASK, Project

from pipeline.data.digest import path_digest
from pipeline.data.imported_files import imported_files

FILES = {
    "top.py": "import a, numpy\nfrom b import c\nfrom b.d import value\n",
    "a.py": "def late():\n    import only_late\n",
    "only_late.py": "",
    "b/__init__.py": "",
    "b/c.py": "from . import e\nfrom .. import outside\n",
    "b/d.py": "value = 1\n",
    "b/e.py": "import top\n",
    "outside.py": "",
    "never.py": "",
    "numpy_is_not_here.py": "",
}


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_import_is_followed_however_deep_and_wherever_it_stands(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    found = {
        str(path.relative_to(tmp_path.resolve())) for path in imported_files(tmp_path / "top.py")
    }
    assert found == set(FILES) - {"never.py", "numpy_is_not_here.py"}


def test_a_file_that_cannot_be_parsed_is_itself_alone(tmp_path: Path) -> None:
    write(tmp_path, {"top.py": "import a\nthis is no Python", "a.py": ""})
    assert imported_files(tmp_path / "top.py") == ((tmp_path / "top.py").resolve(),)


PACKAGE = {
    "mine/__init__.py": "",
    "mine/blocks.py": "import mine.widths\nfrom . import norms\nimport torch\n",
    "mine/widths.py": "",
    "mine/norms.py": "",
    "mine/never.py": "",
    "single.py": "import top\n",
}


class Editable:
    """Finds a package where its files are, as what `pip install -e` puts into `sys.meta_path`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(self._folder)])


@pytest.mark.parametrize("editable", [False, True])
def test_packages_of_the_users_that_lie_elsewhere_are_followed(
    editable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "lib", PACKAGE)
    write(tmp_path / "site-packages", {"installed/__init__.py": "", "alone.py": ""})
    source = "import mine.blocks, single, installed\nimport alone, pipeline.task, pytest\n"
    write(tmp_path / "project", {"top.py": source})
    if editable:
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable(tmp_path / "lib")])
    else:
        monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    found = imported_files(tmp_path / "project" / "top.py")
    names = {path.relative_to(tmp_path.resolve()).as_posix() for path in found}
    never = {"lib/mine/never.py"}
    assert names == {"project/top.py", *(f"lib/{name}" for name in PACKAGE)} - never


def key(project: Project) -> str:
    outcome = project.slimgate("plan", project.folder / "recipe.toml")
    assert outcome.code == 0, outcome.err
    return next(line.split()[-1] for line in outcome.out.splitlines() if " prune " in line)


@pytest.fixture
def split(project: Project) -> Project:
    """The project's network in two files: `net.py` imports its layers from `blocks.py`."""
    net = (project.folder / "net.py").read_text()
    (project.folder / "blocks.py").write_text(net)
    (project.folder / "net.py").write_text("from blocks import network\n")
    return project


def test_a_change_in_a_package_that_lies_elsewhere_makes_results_anew(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = project.folder / "net.py"
    write(tmp_path / "lib", {"mine_too/__init__.py": net.read_text()})
    monkeypatch.syspath_prepend(tmp_path / "lib")
    net.write_text("from mine_too import network\n")
    before = key(project)
    assert key(project) == before
    write(tmp_path / "lib", {"mine_too/__init__.py": NETWORK + "# changed\n"})
    assert key(project) != before


@pytest.mark.parametrize("by_file", [False, True])
def test_a_change_in_an_imported_module_makes_results_anew(split: Project, by_file: bool) -> None:
    if by_file:
        split.task_recipe(TASK)
    before = key(split)
    assert key(split) == before
    blocks = split.folder / "blocks.py"
    blocks.write_text(blocks.read_text() + "\n# changed\n")
    assert key(split) != before


def test_a_module_under_a_computed_name_is_refused_until_it_is_named(project: Project) -> None:
    hidden = "import importlib\nnetwork = importlib.import_module('blo' + 'cks').network\n"
    net = (project.folder / "net.py").read_text()
    (project.folder / "blocks.py").write_text(net)
    (project.folder / "net.py").write_text(hidden)
    project.refuses(2, "blocks.py", "under a computed name", "task.inputs")
    (project.folder / "task.py").write_text(TASK)
    project.recipe(task={"file": "task.py:task", "inputs": ["blocks.py"]})
    assert project.prune().code == 0


def test_a_run_in_the_folder_of_the_files_is_as_any_other(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    assert project.prune().code == 0


def test_links_to_folders_of_images_are_followed_and_circles_end(tmp_path: Path) -> None:
    write(tmp_path, {"data/train/a/1.png": "one", "elsewhere/2.png": "two"})
    (tmp_path / "data/train/b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/train/a/again").symlink_to(tmp_path / "data", target_is_directory=True)
    before = path_digest(tmp_path / "data")
    (tmp_path / "elsewhere/2.png").write_text("another")
    assert path_digest(tmp_path / "data") != before
