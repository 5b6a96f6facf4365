"""Nothing of a user's is overwritten or removed, whatever it is called and whenever we die."""

import json
from pathlib import Path

import pytest
from user_project import Project

import pipeline.measure.all_targets
from pipeline.commands.demo import check_not_changed
from pipeline.release.bundle import read_measurement
from pipeline.store import exchange as exchange_module
from pipeline.store.exchange import exchange, restore, take_place
from pipeline.store.manifest import MANIFEST
from pipeline.store.written_files import put_files
from profiles.errors import ConfigError

MINE = "years of work"
VERBS = {
    "prune": ("model.safetensors", "plan.json"),
    "finetune": ("model.safetensors", "plan.json"),
    "export": ("model.onnx", "export.json"),
    "build": ("engine.onnx",),
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def measured(released: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A finished project whose next run takes the measurement of the last one."""
    found = read_measurement(released.bundle / "measurement.json")
    monkeypatch.setattr(pipeline.measure.all_targets, "measure", lambda *_: found)
    return released


@pytest.mark.parametrize(("verb", "name"), [(v, n) for v, names in VERBS.items() for n in names])
def test_a_file_that_slimgate_did_not_write_is_kept(
    verb: str, name: str, released: Project
) -> None:
    released.out.mkdir()
    (released.out / name).write_text(MINE)
    recipe = released.folder / "recipe.toml"
    outcome = released.slimgate(verb, recipe, "--out", released.out)
    outcome.says(2, f"{released.out / name}: exists", "move it away, or choose another --out")
    assert content(released.out) == {name: MINE.encode()}


def test_weights_that_would_be_overwritten_are_told_of_before_the_work(project: Project) -> None:
    (project.out).mkdir()
    (project.out / "model.safetensors").write_text(MINE)
    project.prune().says(2, "model.safetensors: exists")
    assert not project.stages()


@pytest.mark.parametrize("verb", VERBS)
def test_what_slimgate_wrote_is_replaced_and_what_was_changed_since_is_not(
    verb: str, released: Project
) -> None:
    arguments = (verb, released.folder / "recipe.toml", "--out", released.out)
    assert released.slimgate(*arguments).code == 0
    first = content(released.out)
    released.recipe(prune={"macs_ratio": 0.65})
    assert released.slimgate(*arguments).code == 0
    assert content(released.out) != first
    changed = released.out / VERBS[verb][0]
    changed.write_text(MINE)
    released.slimgate(*arguments).says(2, f"{changed}: exists", "changed since")
    assert changed.read_text() == MINE


def test_a_kill_between_record_and_files_leaves_what_the_next_run_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}").write_text(f"result {number}")
    put_files({"result": tmp_path / "1"}, tmp_path / "out")

    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "result":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            put_files({"result": tmp_path / "2"}, tmp_path / "out")
    assert (tmp_path / "out" / "result").read_text() == "result 1"
    put_files({"result": tmp_path / "2"}, tmp_path / "out")
    assert (tmp_path / "out" / "result").read_text() == "result 2"


def test_a_users_file_of_the_same_content_stays_the_users(tmp_path: Path) -> None:
    for name, text in (("1", "result 1"), ("2", "result 2"), ("users", "result 1")):
        (tmp_path / name).write_text(text)
    (tmp_path / "out").mkdir()
    (tmp_path / "users").rename(tmp_path / "out" / "result")
    put_files({"result": tmp_path / "1"}, tmp_path / "out")
    with pytest.raises(ConfigError, match="slimgate did not write it"):
        put_files({"result": tmp_path / "2"}, tmp_path / "out")
    assert (tmp_path / "out" / "result").read_text() == "result 1"


@pytest.mark.parametrize("name", ["thesis.txt", "report.md"])
def test_a_bundle_with_a_users_file_in_it_is_not_replaced(name: str, measured: Project) -> None:
    (measured.bundle / name).write_text(MINE)
    before = content(measured.bundle)
    outcome = measured.slimgate("run", measured.folder / "recipe.toml")
    outcome.says(2, f"{measured.bundle}: is not a bundle as slimgate wrote it", name)
    assert content(measured.bundle) == before


def test_a_folder_of_somebody_elses_with_a_manifest_is_not_replaced(measured: Project) -> None:
    other = measured.folder / "other"
    other.mkdir()
    (other / MANIFEST).write_text(json.dumps({"seconds": 0, "files": {}}))
    recipe = measured.folder / "recipe.toml"
    measured.slimgate("run", recipe, "--out", other).says(2, f"{other}: is not a bundle")
    assert set(content(other)) == {MANIFEST}


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_report_goes_over_an_older_report_and_over_nothing_else(
    option: str, released: Project
) -> None:
    path = released.folder / "report"
    assert released.slimgate("gate", released.bundle, option, path).code == 0
    assert released.slimgate("gate", released.bundle, option, path).code == 0
    path.write_text("")  # as CI systems hand it out
    assert released.slimgate("gate", released.bundle, option, path).code == 0
    path.write_text(MINE)
    released.slimgate("gate", released.bundle, option, path).says(2, f"{path}: exists")
    assert path.read_text() == MINE


def test_a_demo_that_a_user_has_changed_is_kept(tmp_path: Path) -> None:
    for name in ("made", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text("ours")
    check_not_changed(tmp_path / "folder", tmp_path / "made")
    (tmp_path / "folder" / "recipe.toml").write_text(MINE)
    with pytest.raises(ConfigError, match=r"recipe\.toml: exists"):
        check_not_changed(tmp_path / "folder", tmp_path / "made")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A new bundle, the old one in its place, and where the old one may go meanwhile."""
    for name in ("new", "bundle"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "new", tmp_path / "bundle", tmp_path / "aside"


def test_two_folders_change_places_in_one_step(folders: tuple[Path, Path, Path]) -> None:
    new, bundle, _ = folders
    if not exchange(new, bundle):
        pytest.skip("this system cannot exchange folders")
    assert (bundle / "file").read_text() == "new"
    assert (new / "file").read_text() == "bundle"


def test_an_exchange_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "new", tmp_path / "bundle")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_without_an_exchange_the_old_folder_comes_back_after_an_error_or_a_signal(
    fault: type[BaseException], folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, bundle, aside = folders
    monkeypatch.setattr(exchange_module, "exchange", lambda *_: False)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == new:
            raise fault
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(fault):
            take_place(new, bundle, aside)
    assert (bundle / "file").read_text() == "bundle"
    take_place(new, bundle, aside)
    assert (bundle / "file").read_text() == "new"


def test_after_a_kill_between_the_renames_the_old_folder_is_put_back(
    folders: tuple[Path, Path, Path],
) -> None:
    _, bundle, aside = folders
    bundle.rename(aside)
    restore(bundle, aside)
    assert (bundle / "file").read_text() == "bundle"
    restore(bundle, aside)  # nothing to do
    assert (bundle / "file").read_text() == "bundle"
