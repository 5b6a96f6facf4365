"""A bundle against the last one: no worse, and only with evidence of the same kind."""

import json
from dataclasses import replace
from functools import partial

import pytest
import releases
from user_project import Project, rewrite_in_bundle

from pipeline.measure.sessions import Measure
from pipeline.release.bundle import Release
from pipeline.release.regression import against
from profiles.budget import Budget
from profiles.gate import Check
from profiles.host import HostGpu


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
    (host,) = found["targets"]
    status = {check["name"]: check["status"] for check in host["checks"]}
    for name in ("macs", "parameters", "engine_size_mib", "peak_memory_mib", "top1_drop"):
        assert status[f"last:{name}"] == "pass", name


def test_a_release_that_grew_beside_the_last_one_is_refused() -> None:
    release = releases.release()
    target = release.targets[0]
    shipped = target.measurement.shipped
    smaller = shipped.model_copy(update={"macs": shipped.macs // 2})
    measurement = target.measurement.model_copy(update={"shipped": smaller})
    last = Release(release.pruned, (replace(target, measurement=measurement),))
    (found,) = against(release, last, 0.02, 0.01).targets
    (check,) = [check for check in found.verdict.checks if check.name == "last:macs"]
    assert check.status == "fail"
    assert found.verdict.status == "fail"


def measured_again(speed: float, worse: float = 1.0) -> Release:
    """Another session of the same release: every time `speed` times as long.

    The shipped engine's times and memory are `worse` times those that they would be.
    """
    scaled = releases.scaled(releases.measurement(), speed, speed * worse, worse)
    return releases.release(releases.judged(scaled))


def compared(now: Release, last: Release) -> dict[str, Check]:
    (target,) = against(now, last, 0.04, 0.01).targets
    return {check.name: check for check in target.verdict.checks if check.name[:5] == "last:"}


MEASURED = ("latency_p50_ms", "latency_p95_ms", "first_inference_ms", "peak_memory_mib")


@pytest.mark.parametrize("speed", [1.0, 1.1, 0.8])
def test_a_release_is_no_worse_than_itself_whatever_the_speed_of_the_machine(speed: float) -> None:
    found = compared(measured_again(speed), releases.release())
    assert {name: check.status for name, check in found.items() if check.status != "pass"} == {}
    assert {f"last:{name}" for name in MEASURED} < set(found)


@pytest.mark.parametrize("speed", [1.0, 1.1, 0.8])
def test_a_figure_5_percent_worse_is_refused_whatever_the_speed_of_the_machine(
    speed: float,
) -> None:
    found = compared(measured_again(speed, worse=1.05), releases.release())
    assert {found[f"last:{name}"].status for name in MEASURED} == {"fail"}


def test_beside_another_dense_engine_times_are_compared_as_they_are() -> None:
    now = measured_again(1.1)
    (target,) = now.targets
    dense = target.measurement.dense.model_copy(update={"sha256": "7" * 64})
    other = target.measurement.model_copy(update={"dense": dense})
    found = compared(Release(now.pruned, (replace(target, measurement=other),)), releases.release())
    assert found["last:latency_p50_ms"].status == "fail"
    assert found["last:peak_memory_mib"].status == "pass"


def test_too_few_processes_to_tell_are_told_so() -> None:
    def starting_in(*load_ms: float) -> Release:
        (target,) = releases.release().targets
        starts = [
            run.model_copy(update={"load_ms": ms})
            for run, ms in zip(target.measurement.shipped.starts, load_ms, strict=True)
        ]
        shipped = target.measurement.shipped.model_copy(update={"starts": tuple(starts)})
        measurement = target.measurement.model_copy(update={"shipped": shipped})
        return releases.release(replace(target, measurement=measurement))

    noisy = starting_in(40, 44, 48, 52, 56)
    check = compared(noisy, noisy)["last:first_inference_ms"]
    assert check.status == "inconclusive"
    assert "known to within" in check.reason
    assert "measure.starts" in check.reason


@pytest.mark.parametrize("changed", ["cpu", "onnxruntime", "torch"])
def test_scores_of_another_machine_or_runtime_are_no_evidence_when_times_are_measured_anew(
    released: Project, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    evidence = json.loads((released.bundle / "measurement.json").read_text())
    host = evidence["host"]
    place = host if changed == "cpu" else host["versions"]
    place[changed] = "another"
    rewrite_in_bundle(released.bundle, "measurement.json", json.dumps(evidence))
    monkeypatch.setattr("pipeline.measure.sessions.SESSIONS", 1)
    monkeypatch.setattr(
        "pipeline.measure.sessions.Measure", partial(Measure, processes=5, seconds=0.02, starts=5)
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


@pytest.mark.parametrize("option", ["--tolerance", "--top1-drop"])
@pytest.mark.parametrize("value", ["-1", "nan", "1", "inf"])
def test_a_tolerance_that_is_no_fraction_is_refused(
    option: str, value: str, released: Project
) -> None:
    arguments = ("gate", released.bundle, "--against", released.bundle, option, value)
    released.slimgate(*arguments).says(2, f"{option} {value}", "0.04")


def test_beside_a_figure_of_zero_nothing_passes_and_nothing_breaks() -> None:
    release = releases.release()
    target = release.targets[0]
    start = target.measurement.shipped.starts[0]
    none = start.model_copy(update={"peak_mib": start.baseline_mib})
    shipped = target.measurement.shipped.model_copy(update={"starts": (none,) * 5})
    measurement = target.measurement.model_copy(update={"shipped": shipped})
    last = Release(release.pruned, (replace(target, measurement=measurement),))
    (found,) = against(release, last, 0.02, 0.01).targets
    status = {check.name: check for check in found.verdict.checks}
    assert status["last:peak_memory_mib"].status == "inconclusive"
    assert "is 0" in status["last:peak_memory_mib"].reason
