"""Several devices in one verdict, and what else `slimgate gate` says about a bundle."""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
import releases
from user_project import Project

from pipeline.measure.sessions import Measure
from pipeline.release.bundle import Release
from pipeline.release.regression import against
from pipeline.store.manifest import write_manifest
from profiles.budget import Budget
from profiles.host import HostGpu

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
    assert all("what measured is not the device" in check["reason"] for check in checks)


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


def test_a_bundle_is_no_worse_than_itself_but_for_what_was_not_measured(
    released: Project,
) -> None:
    loose = ("--tolerance", "0.5", "--top1-drop", "0.9")
    outcome = released.slimgate("gate", released.bundle, "--against", released.bundle, *loose)
    assert "last:macs" in outcome.out
    found = json.loads(
        released.slimgate(
            "gate", released.bundle, "--json", "--against", released.bundle, *loose
        ).out
    )
    checks = target(found, "host")["checks"]
    assert isinstance(checks, list)
    status = {check["name"]: check["status"] for check in checks}
    for name in ("macs", "parameters", "engine_size_mib", "peak_memory_mib", "top1_drop"):
        assert status[f"last:{name}"] == "pass", name


def test_a_bundle_that_grew_beside_the_last_one_is_refused(
    released: Project, tmp_path: Path
) -> None:
    smaller = tmp_path / "last.bundle"
    shutil.copytree(released.bundle, smaller)
    rewritten = Project(released.folder)
    path = smaller / "measurement.json"
    evidence = json.loads(path.read_text())
    evidence["shipped"]["macs"] //= 2
    path.write_text(json.dumps(evidence))
    (smaller / "MANIFEST.json").unlink()
    write_manifest(smaller, 0.0)
    outcome = rewritten.slimgate("gate", released.bundle, "--against", smaller)
    assert outcome.code == 1
    assert "last:macs " in outcome.out


@pytest.mark.parametrize("changed", ["cpu", "onnxruntime", "torch"])
def test_scores_of_another_machine_or_runtime_are_no_evidence_when_times_are_measured_anew(
    released: Project, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    path = released.bundle / "measurement.json"
    evidence = json.loads(path.read_text())
    host = evidence["host"]
    place = host if changed == "cpu" else host["versions"]
    place[changed] = "another"
    path.write_text(json.dumps(evidence))
    (released.bundle / "MANIFEST.json").unlink()
    write_manifest(released.bundle, 0.0)
    monkeypatch.setattr("pipeline.measure.sessions.SESSIONS", 1)
    monkeypatch.setattr(
        "pipeline.measure.sessions.Measure", partial(Measure, processes=5, seconds=0.02)
    )
    outcome = released.slimgate("measure", released.bundle, "--json")
    (one,) = json.loads(outcome.out)["targets"]
    status = {check["name"]: check["status"] for check in one["checks"]}
    assert status["macs_ratio"] == "pass"
    assert status["top1_drop"] == ("pass" if changed == "torch" else "inconclusive")
    assert outcome.code == (0 if changed == "torch" else 6)


def on_gpu(name: str) -> Release:
    """A release for a board with a GPU of that name."""
    gpu = HostGpu(ordinal=0, name=name, compute_capability="8.7")
    found = releases.measurement()
    there = found.model_copy(
        update={"clock": "wall", "host": found.host.model_copy(update={"gpus": (gpu,)})}
    )
    device = releases.EDGE.model_copy(update={"compute_capability": "8.7"})
    return releases.release(releases.judged(there, Budget(macs_ratio=0.6), device))


def test_a_gpu_is_compared_by_what_is_measured_on_it_and_with_its_own_kind() -> None:
    same = against(on_gpu("Orin"), on_gpu("Orin"), 0.5, 0.05)
    assert same.status == "pass"
    names = {check.name for check in same.targets[0].verdict.checks}
    assert "last:latency_p50_ms" in names
    assert "last:peak_memory_mib" not in names
    other = against(on_gpu("Orin"), on_gpu("A2000"), 0.5, 0.05)
    assert other.status == "inconclusive"
    (check,) = [c for c in other.targets[0].verdict.checks if c.name == "last:latency_p50_ms"]
    assert "measured on Cortex-A76, A2000, this one on Cortex-A76, Orin" in check.reason


def test_a_last_bundle_without_the_device_is_told(two: Project, released: Project) -> None:
    released.slimgate("gate", two.bundle, "--against", released.bundle).says(
        2, "the last bundle has no target 'raspberry-pi-5'"
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
    terms = json.loads((released.bundle / "targets.json").read_text())
    terms["targets"][0]["budget"] = {"macs_ratio": 0.01}
    (released.bundle / "targets.json").write_text(json.dumps(terms))
    (released.bundle / "MANIFEST.json").unlink()
    write_manifest(released.bundle, 0.0)
    sha = json.loads((released.bundle / "measurement.json").read_text())["shipped"]["sha256"]
    path = released.folder / "waiver.toml"
    path.write_text(WAIVER.format(sha=sha, day=day))
    assert released.slimgate("gate", released.bundle).code == 1
    outcome = released.slimgate("gate", released.bundle, "--accept-waiver", path)
    assert outcome.code == code, outcome.out
    assert ("waived until 2999-01-01 by the release owner" in outcome.out) == (code == 0)
