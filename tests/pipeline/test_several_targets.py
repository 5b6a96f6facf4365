"""Several devices in one verdict, and what else `slimgate gate` says about a bundle."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from user_project import Project, change_budget

TWO = """
[[target]]
device = "host"
budget = { macs_ratio = 0.7, peak_memory_mib = 4096 }
[[target]]
device = "raspberry-pi-5"
budget = { macs_ratio = 0.7, latency_p50_ms = 50 }
"""


@pytest.fixture(scope="module")
def two(template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run for this host, and for a board that it is not."""
    folder = tmp_path_factory.mktemp("two") / "project"
    shutil.copytree(template.folder, folder)
    project = Project(folder)
    path = project.recipe(target=None)
    path.write_text(path.read_text() + TWO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.measure.sessions.SESSIONS", 1)  # no limit here is on time
        outcome = project.slimgate("run", path)
    assert outcome.code == 6, outcome.err
    return project


def target(found: Mapping[str, object], device: str) -> Mapping[str, object]:
    targets = found["targets"]
    assert isinstance(targets, list)
    return next(one for one in targets if one["device"] == device)


def test_a_board_that_was_not_there_is_inconclusive_and_so_is_the_whole(two: Project) -> None:
    outcome = two.slimgate("gate", two.bundle, "--json")
    assert outcome.code == 6
    found = json.loads(outcome.out)
    assert found["verdict"] == "inconclusive"
    assert target(found, "host")["verdict"] == "pass"
    checks = target(found, "raspberry-pi-5")["checks"]
    assert isinstance(checks, list)
    assert {check["status"] for check in checks} == {"inconclusive"}
    assert all("the machine that measured is not the device" in check["reason"] for check in checks)


def test_what_cannot_pass_is_told_before_anything_runs(two: Project) -> None:
    outcome = two.slimgate("plan", two.folder / "recipe.toml")
    assert outcome.code == 0
    (doubt,) = [line for line in outcome.out.splitlines() if "inconclusive" in line]
    assert doubt.startswith("raspberry-pi-5: this machine is not the device (")
    assert "say where it is in target.ssh" in doubt


def test_a_margin_that_the_samples_cannot_prove_is_told_before_anything_runs(
    project: Project,
) -> None:
    path = project.recipe(target={"budget": {"top1_drop": 0.01, "macs_ratio": 0.7}})
    outcome = project.slimgate("plan", path, "--json")
    (doubt,) = json.loads(outcome.out)["doubts"]
    assert "top1_drop 0.01 needs about 1414 validation samples, there are 32" in doubt


def test_each_target_has_files_of_its_own_in_the_bundle(two: Project) -> None:
    names = {path.name for path in two.bundle.iterdir()}
    for device in ("host", "raspberry-pi-5"):
        assert {
            f"{device}-engine.onnx",
            f"{device}-dense.onnx",
            f"{device}-measurement.json",
        } <= names
    assert "engine.onnx" not in names
    page = (two.bundle / "report.md").read_text()
    assert "# INCONCLUSIVE: host, raspberry-pi-5" in page
    assert "## host: pass" in page
    assert "## raspberry-pi-5: inconclusive" in page


def test_the_board_gets_an_engine_that_is_not_made_for_this_processor(two: Project) -> None:
    here, there = (
        (two.bundle / f"{device}-engine.onnx").read_bytes() for device in ("host", "raspberry-pi-5")
    )
    assert here != there


def test_junit_has_a_suite_for_each_target_and_an_error_for_what_is_inconclusive(
    two: Project, tmp_path: Path
) -> None:
    assert two.slimgate("gate", two.bundle, "--junit", tmp_path / "gate.xml").code == 6
    suites = ElementTree.parse(tmp_path / "gate.xml").getroot()
    found = {suite.get("name"): suite for suite in suites}
    assert set(found) == {"host", "raspberry-pi-5"}
    assert (found["host"].get("errors"), found["host"].get("failures")) == ("0", "0")
    assert found["raspberry-pi-5"].get("errors") == "2"
    errors = found["raspberry-pi-5"].findall("testcase/error")
    assert all("not the device" in (error.get("message") or "") for error in errors)


def test_the_summary_for_a_page_of_ci_has_the_verdict_first(two: Project, tmp_path: Path) -> None:
    two.slimgate("gate", two.bundle, "--markdown", tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# INCONCLUSIVE: host, raspberry-pi-5\n")
    assert "| macs_ratio | " in text


def test_what_cannot_be_written_is_told(two: Project) -> None:
    two.slimgate("gate", two.bundle, "--junit", Path("nowhere") / "a.xml").says(
        2, "nowhere/a.xml: not written (No such file"
    )


def test_a_last_bundle_without_the_device_is_told(two: Project, released: Project) -> None:
    released.slimgate("gate", two.bundle, "--against", released.bundle).says(
        2, "the last bundle has no target 'raspberry-pi-5', only host"
    )


WAIVER = """
[[waiver]]
check = "macs_ratio"
device = "host"
engine_sha256 = "{sha}"
limit = 0.99
reason = "the next board is faster"
signed_off_by = "the release owner"
expires = {day}
"""


@pytest.mark.parametrize(("day", "code"), [("2999-01-01", 0), ("2020-01-01", 1)])
def test_a_waiver_ships_a_missed_limit_until_it_expires_and_only_when_it_is_accepted(
    day: str, code: int, released: Project
) -> None:
    change_budget(released.bundle, macs_ratio=0.01)
    sha = json.loads((released.bundle / "measurement.json").read_text())["shipped"]["sha256"]
    path = released.folder / "waiver.toml"
    path.write_text(WAIVER.format(sha=sha, day=day))
    assert released.slimgate("gate", released.bundle).code == 1
    outcome = released.slimgate("gate", released.bundle, "--accept-waiver", path)
    assert outcome.code == code, outcome.out
    assert ("waived until 2999-01-01 by the release owner" in outcome.out) == (code == 0)
