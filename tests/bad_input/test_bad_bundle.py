"""A bundle that is not as it was written is refused, and evidence that is none never passes."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from user_project import Project, change_budget, change_terms, rewrite_in_bundle

from pipeline.release.bundle import read_measurement
from pipeline.store.manifest import MANIFEST
from profiles.measurement import Measurement


def gate(project: Project) -> int:
    return project.slimgate("gate", project.bundle).code


def evidence(project: Project) -> Measurement:
    return read_measurement(project.bundle / "measurement.json")


def test_the_bundle_of_a_complete_run_passes(released: Project) -> None:
    assert gate(released) == 0
    rewrite_in_bundle(released.bundle, "measurement.json", evidence(released).model_dump_json())
    assert gate(released) == 0


@pytest.mark.parametrize("verb", ["gate", "measure"])
@pytest.mark.parametrize("name", ["none", ".", "net.py"])
def test_a_place_without_a_bundle_is_named(verb: str, name: str, project: Project) -> None:
    path = project.folder / name
    project.slimgate(verb, path).says(2, f"{path}: not a bundle (it has no MANIFEST.json)")


@pytest.mark.parametrize("verb", ["gate", "measure"])
def test_one_flipped_byte_in_any_file_is_refused(verb: str, released: Project) -> None:
    files = [path for path in released.bundle.iterdir() if path.name != MANIFEST]
    assert len(files) >= 10
    for path in files:
        raw = path.read_bytes()
        middle = len(raw) // 2
        path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
        released.slimgate(verb, released.bundle).says(
            7, f"{path} does not have the content", "do not ship"
        )
        path.write_bytes(raw)
    assert gate(released) == 0


def test_a_flipped_byte_in_the_manifest_never_passes(released: Project) -> None:
    path = released.bundle / MANIFEST
    raw = path.read_bytes()
    start = raw.index(b'"files"')  # before it stand only the seconds that the run took
    for place in range(start, len(raw), 13):
        if raw[place : place + 1].isspace():
            continue
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert gate(released) in (2, 7), place


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"{}", b"[]"])
def test_a_manifest_that_cannot_be_read_is_refused(raw: bytes, released: Project) -> None:
    (released.bundle / MANIFEST).write_bytes(raw)
    released.slimgate("gate", released.bundle).says(7, MANIFEST, "do not ship")


@pytest.mark.parametrize("name", ["more.txt", ".hidden", "folder/more.txt"])
def test_an_extra_file_is_refused(name: str, released: Project) -> None:
    path = released.bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    released.slimgate("gate", released.bundle).says(7, f"{path} is not in the manifest", "do not")


def test_a_missing_file_is_refused(released: Project) -> None:
    for path in [path for path in released.bundle.iterdir() if path.name != MANIFEST]:
        raw = path.read_bytes()
        path.unlink()
        released.slimgate("gate", released.bundle).says(7, f"{path} is missing", "do not ship")
        path.write_bytes(raw)
    assert gate(released) == 0


def test_a_link_in_place_of_a_file_is_refused(released: Project, tmp_path: Path) -> None:
    path = released.bundle / "engine.onnx"
    shutil.move(path, tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    released.slimgate("gate", released.bundle).says(7, f"{path} ", "do not ship")


def test_a_pipe_in_place_of_a_file_is_refused_and_nobody_waits_for_it(released: Project) -> None:
    path = released.bundle / "report.md"
    manifest = json.loads((released.bundle / MANIFEST).read_text())
    manifest["files"]["report.md"]["bytes"] = 0
    (released.bundle / MANIFEST).write_text(json.dumps(manifest))
    path.unlink()
    os.mkfifo(path)
    released.slimgate("gate", released.bundle).says(7, f"{path} is a link, a pipe", "do not ship")


def test_a_link_to_a_folder_is_no_part_of_a_bundle(released: Project, tmp_path: Path) -> None:
    (released.bundle / "more").symlink_to(tmp_path)
    released.slimgate("gate", released.bundle).says(7, "more is not in the manifest")


def shipped(found: Measurement, **fields: object) -> Measurement:
    return found.model_copy(update={"shipped": found.shipped.model_copy(update=fields)})


def dense(found: Measurement, **fields: object) -> Measurement:
    return found.model_copy(update={"dense": found.dense.model_copy(update=fields)})


def with_a_peak_of_nan(found: Measurement) -> Measurement:
    first, *others = found.shipped.starts
    return shipped(found, starts=(first.model_copy(update={"peak_mib": math.nan}), *others))


EVIDENCE: dict[str, tuple[Callable[[Measurement], Measurement], str]] = {
    "a score of NaN": (
        lambda m: shipped(m, scores=(math.nan, *m.shipped.scores[1:])),
        "no usable figure; measure again",
    ),
    "a dense score of NaN": (
        lambda m: dense(m, scores=(math.nan, *m.dense.scores[1:])),
        "no usable figure; measure again",
    ),
    "infinite scores": (lambda m: shipped(m, scores=(math.inf,) * 32), "no usable figure"),
    "no scores": (lambda m: shipped(m, scores=()), "no usable figure; measure again"),
    "fewer scores": (lambda m: shipped(m, scores=(1.0,)), "no usable figure; measure again"),
    "a peak of NaN": (with_a_peak_of_nan, "a peak below its own baseline; measure again"),
    "one memory run": (
        lambda m: shipped(m, starts=m.shipped.starts[:1]),
        "too few starts: 1, 3 are needed for memory",
    ),
    "another engine": (
        lambda m: shipped(m, sha256=m.dense.sha256),
        "stale: another engine file was measured; measure again",
    ),
    "another device": (
        lambda m: m.model_copy(update={"device": "x86-64"}),
        "measured for x86-64, not host; measure again",
    ),
    "other threads": (
        lambda m: m.model_copy(update={"threads": 4}),
        "measured with 4 threads, the device runs 1",
    ),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence_that_is_none_is_inconclusive_and_says_why(case: str, released: Project) -> None:
    change, says = EVIDENCE[case]
    rewrite_in_bundle(
        released.bundle, "measurement.json", change(evidence(released)).model_dump_json()
    )
    outcome = released.slimgate("gate", released.bundle)
    assert outcome.code == 6, outcome.out
    assert "verdict: INCONCLUSIVE" in outcome.out
    assert says in outcome.out
    machine = released.slimgate("gate", released.bundle, "--json")
    assert machine.code == 6
    assert json.loads(machine.out)["verdict"] == "inconclusive"
    assert "NaN" not in machine.out


def test_nan_in_place_of_a_number_is_read_as_it_stands(released: Project) -> None:
    text = evidence(released).model_dump_json()
    start = text.index('"scores":[') + len('"scores":[')
    rewrite_in_bundle(
        released.bundle, "measurement.json", text[:start] + "NaN," + text[start + len("0.0,") :]
    )
    assert gate(released) == 6


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"budget": {}}, "budget: a budget needs at least one of"),
        ({"engine": "none.onnx"}, "none.onnx: cannot be read"),
        ({"engine": "../outside.onnx"}, "engine: String should match"),
        ({"more": 1}, "more: unknown key"),
    ],
)
def test_terms_that_make_no_sense_are_told_so(
    fields: dict[str, object], says: str, released: Project
) -> None:
    change_terms(released.bundle, fields)
    released.slimgate("gate", released.bundle).says(2, f"{released.bundle}", says)


def test_evidence_that_makes_no_sense_is_told_so(released: Project) -> None:
    text = dense(evidence(released), macs=0).model_dump_json()
    rewrite_in_bundle(released.bundle, "measurement.json", text)
    released.slimgate("gate", released.bundle).says(
        2, "measurement.json: dense.macs: Input should be greater than 0 (found 0)"
    )


def test_a_budget_that_was_missed_ends_with_1(released: Project) -> None:
    change_budget(released.bundle, macs_ratio=0.01)
    assert gate(released) == 1


def repeated(found: Measurement) -> Measurement:
    """Every sample's score sixty times."""
    many = shipped(found, scores=found.shipped.scores * 60)
    return dense(many, scores=found.dense.scores * 60)


def copied(found: Measurement) -> Measurement:
    """One timed process in place of all."""
    return found.model_copy(update={"latency": found.latency[:1] * len(found.latency)})


def instant(found: Measurement) -> Measurement:
    """Every call of the shipped engine took a nanosecond."""
    runs = []
    for run in found.latency:
        count = len(run.shipped.wall_ns)
        times = run.shipped.model_copy(update={"wall_ns": (1,) * count, "cpu_ns": (1,) * count})
        runs.append(run.model_copy(update={"shipped": times}))
    return found.model_copy(update={"latency": tuple(runs)})


CONTRADICTIONS: dict[str, tuple[Callable[[Measurement], Measurement], str]] = {
    "a smaller file": (lambda m: shipped(m, size_bytes=1), "1 bytes are told of engine.onnx"),
    "a larger dense file": (
        lambda m: dense(m, size_bytes=m.dense.size_bytes + 1),
        "bytes are told of dense.onnx, which has",
    ),
    "another dense engine": (
        lambda m: dense(m, sha256=m.shipped.sha256),
        "another dense engine than dense.onnx was measured",
    ),
    "fewer MACs": (lambda m: shipped(m, macs=1), "1 MACs and"),
    "fewer parameters": (lambda m: shipped(m, parameters=1), "1 parameters are told"),
    "scores of 2": (
        lambda m: shipped(m, scores=(2.0,) * 32),
        "a score of 2 is not between 0 and 1",
    ),
    "negative dense scores": (
        lambda m: dense(m, scores=(-1.0,) * 32),
        "a score of -1 is not between 0 and 1",
    ),
    "scores sixty times": (repeated, "1920 scores are told of 32 samples"),
    "one process copied": (copied, "two timed processes are the same to the last digit"),
    "one start copied": (
        lambda m: shipped(m, starts=m.shipped.starts[:1] * 5),
        "two starts are the same to the last digit",
    ),
    "calls of a nanosecond": (instant, "a call of 1 ns is shorter than a clock can tell"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_evidence_that_the_other_files_contradict_is_refused(case: str, released: Project) -> None:
    change, says = CONTRADICTIONS[case]
    text = change(evidence(released)).model_dump_json()
    rewrite_in_bundle(released.bundle, "measurement.json", text)
    for verb in ("gate", "measure"):
        released.slimgate(verb, released.bundle).says(7, "measurement.json: ", says, "do not ship")


@pytest.mark.parametrize("limits", [{"macs_ratio": 0.99}, {"top1_drop": 0.99}])
def test_a_budget_that_the_recipe_does_not_hold_is_refused(
    limits: dict[str, float], released: Project
) -> None:
    change_terms(released.bundle, {"budget": limits})
    released.slimgate("gate", released.bundle).says(
        7, "targets.json holds another budget for host than recipe.json"
    )


def test_a_bundle_whose_manifest_never_had_a_model_is_told_so(released: Project) -> None:
    (released.bundle / "model.onnx").unlink()
    rewrite_in_bundle(released.bundle, "report.md", "the same")
    released.slimgate("gate", released.bundle).says(2, "model.onnx: cannot be read")


def test_an_engine_put_in_the_place_of_the_dense_one_is_refused(released: Project) -> None:
    raw = (released.bundle / "engine.onnx").read_bytes()
    (released.bundle / "dense.onnx").write_bytes(raw)
    rewrite_in_bundle(released.bundle, "report.md", "the same")
    released.slimgate("gate", released.bundle).says(7, "dense.onnx")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"schema_version":2', '"schema_version":2,"schema_version":2', "given twice"),
        ('"batch":1', '"batch":"1"', "batch: Input should be a valid integer"),
        ('"batch":1', '"batch":true', "batch: Input should be a valid integer"),
    ],
)
def test_evidence_is_read_as_strictly_as_a_recipe(
    before: str, after: str, says: str, released: Project
) -> None:
    text = evidence(released).model_dump_json()
    assert before in text
    rewrite_in_bundle(released.bundle, "measurement.json", text.replace(before, after))
    released.slimgate("gate", released.bundle).says(2, "measurement.json: ", says)
