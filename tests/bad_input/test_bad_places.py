"""A store or an --out that cannot be written: one message, and nothing half-written stays."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from user_project import Outcome, Project

import pipeline.measure.all_targets
from pipeline.network.spool import Memory
from pipeline.release.bundle import read_measurement
from pipeline.store.manifest import manifest_fault
from pipeline.store.written_files import RECORD
from profiles.errors import DiskError

FULL = "the disk is full; free space and run again"


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: to a program, the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def without(project: Project, *files: str) -> None:
    """Take the results that hold one of `files` out of the store."""
    for folder in (project.cache / "done").iterdir():
        if any((folder / name).exists() for name in files):
            shutil.rmtree(folder)


@pytest.fixture
def measured(released: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A finished project whose next run takes the measurement of the last one."""
    found = read_measurement(released.bundle / "measurement.json")
    monkeypatch.setattr(pipeline.measure.all_targets, "measure", lambda *_: found)
    return released


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_disk_that_fills_while_pruning_leaves_nothing_and_a_rerun_succeeds(
    project: Project,
) -> None:
    with files_limited_to(2000):
        project.refuses(5, f"{project.cache}: {FULL}")
    assert project.prune().code == 0
    assert not project.leftovers()


@pytest.mark.parametrize("held_gib", [1e-9, 2e-5])  # no sample, and all 32 and nothing else
def test_a_disk_without_room_for_what_memory_does_not_hold_is_named(
    held_gib: float, project: Project
) -> None:
    project.recipe(prune={"memory_gib": held_gib})
    with files_limited_to(2000):
        project.refuses(
            5,
            f"{tempfile.gettempdir()}: File too large; what memory has no room for lies there: "
            "free space, set TMPDIR to another folder, or raise memory_gib",
        )
    assert project.prune().code == 0


def test_where_no_folder_takes_a_temporary_file_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    full = pytest.raises(DiskError, match=r"No usable temporary directory.*set TMPDIR")
    with files_limited_to(0), full:
        Memory(0).tensor((4,), torch.device("cpu"))
    with files_limited_to(0), full:
        Memory(0).spool().keep(torch.ones(4))


def test_a_disk_that_fills_while_training_leaves_nothing_and_a_rerun_succeeds(
    project: Project,
) -> None:
    path = project.recipe(finetune={"epochs": 1})
    assert project.prune().code == 0
    before = project.stages()
    with files_limited_to(2000):
        outcome = project.slimgate("finetune", path, "--out", project.folder / "tuned")
    outcome.says(5, f"{project.cache}: {FULL}")
    assert project.stages() == before
    assert not project.leftovers()
    assert project.slimgate("finetune", path, "--out", project.folder / "tuned").code == 0


@pytest.mark.parametrize(
    ("verb", "lost", "limit", "says"),
    [
        ("export", ("model.onnx", "engine.onnx"), 2000, FULL),
        ("export", ("model.onnx", "engine.onnx"), 12_000, FULL),
        ("build", ("engine.onnx",), 2000, "ONNX Runtime cannot build"),
    ],
)
def test_a_disk_that_fills_later_leaves_nothing_and_a_rerun_succeeds(
    verb: str, lost: tuple[str, ...], limit: int, says: str, released: Project
) -> None:
    without(released, *lost)
    before = released.stages()
    arguments = (released.folder / "recipe.toml", "--out", released.out)
    with files_limited_to(limit):
        outcome = released.slimgate(verb, *arguments)
    outcome.says(5)
    assert released.stages() == before
    assert not released.leftovers()
    assert not released.out.exists()
    assert says in outcome.err
    assert released.slimgate(verb, *arguments).code == 0


def test_a_disk_that_fills_while_the_bundle_is_written_keeps_the_old_one(
    measured: Project,
) -> None:
    before = content(measured.bundle)
    path = measured.folder / "recipe.toml"
    with files_limited_to(8000):
        measured.slimgate("run", path).says(5, f"{measured.bundle}: {FULL}")
    assert content(measured.bundle) == before
    assert not measured.leftovers()
    assert measured.slimgate("run", path).code == 0


def test_a_disk_that_fills_while_a_result_is_copied_leaves_no_part_of_it(
    released: Project,
) -> None:
    with files_limited_to(2000):
        released.prune().says(5, f"{released.out}: {FULL}")
    assert not list(released.out.iterdir())


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount a small file system")


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    folder = project.folder / "disk"
    folder.mkdir()
    mount(folder, "size=32k")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_real_disk_that_fills_is_named_and_with_space_a_rerun_succeeds(
    project: Project, small_disk: Path
) -> None:
    project.cache = small_disk
    project.prune().says(5, f"{small_disk}: {FULL}")
    assert not project.out.exists()
    assert not project.leftovers()
    assert not any(manifest_fault(small_disk / "done" / key) for key in project.stages())
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert project.prune().code == 0


@pytest.fixture
def read_only(project: Project) -> Iterator[Path]:
    """A folder that cannot be written; the superuser needs a file system for that."""
    folder = project.folder / "sealed"
    folder.mkdir()
    if os.geteuid() == 0:
        mount(folder, "ro")
        yield folder
        subprocess.run(["umount", folder], check=True)
    else:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)


def test_a_read_only_store_is_named(project: Project, read_only: Path) -> None:
    project.cache = read_only / "cache"
    project.prune().says(5, f"{project.cache}")
    assert not project.out.exists()


def test_a_read_only_place_for_the_result_is_named(project: Project, read_only: Path) -> None:
    path = project.folder / "recipe.toml"
    project.slimgate("prune", path, "--out", read_only / "out").says(5, f"{read_only / 'out'}")
    assert not project.leftovers()


def test_a_read_only_place_for_the_bundle_is_named(measured: Project, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    sealed.write_text("")  # nothing can be written below a file
    path = measured.folder / "recipe.toml"
    outcome = measured.slimgate("run", path, "--out", sealed / "bundle")
    outcome.says(5, f"{sealed}")
    assert sealed.read_text() == ""


@pytest.mark.parametrize(("name", "code"), [("net.py", 2), ("net.py/cache", 5)])
def test_a_store_that_is_a_file_is_named(name: str, code: int, project: Project) -> None:
    project.cache = project.folder / name
    project.prune().says(code, f"{project.folder / 'net.py'}")
    assert not project.out.exists()


def test_a_store_and_a_result_may_be_in_folders_that_are_not_there_yet(project: Project) -> None:
    project.cache = project.folder / "a" / "b" / "cache"
    project.out = project.folder / "c" / "d"
    assert project.prune().code == 0
    assert {path.name for path in project.out.iterdir()} == {
        "model.safetensors",
        "plan.json",
        RECORD,
    }


def into(project: Project, verb: str, out: Path) -> Outcome:
    return project.slimgate(verb, project.folder / "recipe.toml", "--out", out)


@pytest.mark.parametrize("verb", ["prune", "finetune", "export", "build"])
def test_a_file_in_place_of_the_results_folder_is_refused_before_the_work(
    verb: str, project: Project
) -> None:
    out = project.folder / "net.py"
    before = out.read_bytes()
    into(project, verb, out).says(2, f"{out}: exists and is not a folder; choose another --out")
    assert out.read_bytes() == before
    assert not project.stages()


@pytest.mark.parametrize("name", ["folder", "net.py", ""])
def test_what_is_no_bundle_is_refused_untouched_and_before_the_work(
    name: str, project: Project
) -> None:
    (project.folder / "folder").mkdir()
    (project.folder / "folder" / "thesis.txt").write_text("years of work")
    before = content(project.folder)
    out = project.folder / name
    into(project, "run", out).says(2, f"{out}: exists and is not a bundle; choose another --out")
    assert not project.stages()
    shutil.rmtree(project.cache)
    assert content(project.folder) == before


def test_the_default_bundle_is_refused_in_the_same_way(project: Project) -> None:
    project.bundle.mkdir()
    path = project.folder / "recipe.toml"
    project.slimgate("run", path).says(2, f"{project.bundle}: exists and is not a bundle")


def test_an_older_bundle_is_replaced_whole(measured: Project) -> None:
    old = content(measured.bundle)
    assert measured.slimgate("run", measured.folder / "recipe.toml").code == 0
    assert content(measured.bundle).keys() == old.keys()
    assert content(measured.bundle)["engine.onnx"] == old["engine.onnx"]
    assert measured.slimgate("gate", measured.bundle).code == 0
    assert not measured.leftovers()


def test_a_bundle_may_be_replaced_from_inside_it(
    measured: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(measured.bundle)
    assert into(measured, "run", Path()).code == 0
    assert measured.slimgate("gate", measured.bundle).code == 0
