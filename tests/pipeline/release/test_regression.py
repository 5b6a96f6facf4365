"""A bundle against the last one: no worse, and only with evidence of the same kind."""

import json
import math
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


def spoiled(found: Release, engine: str | None = None, **update: object) -> Release:
    """A release whose measurement, or one engine of it, has other fields."""
    (target,) = found.targets
    measurement = target.measurement
    if engine is not None:
        update = {engine: getattr(measurement, engine).model_copy(update=update)}
    measurement = measurement.model_copy(update=update)
    return Release(found.pruned, (replace(target, measurement=measurement),))


def test_beside_another_dense_engine_times_are_compared_as_they_are() -> None:
    now = spoiled(measured_again(1.1), "dense", sha256="7" * 64)
    found = compared(now, releases.release())
    assert found["last:latency_p50_ms"].status == "fail"
    assert "compared without the dense engine" in found["last:latency_p50_ms"].reason
    assert found["last:peak_memory_mib"].status == "pass"


def test_a_tool_of_another_version_leaves_the_dense_engine_to_compare_with() -> None:
    host = releases.measurement().host
    versions = {**host.versions, "torch": "2.16.0", "slimgate": "0.2.0"}
    now = spoiled(measured_again(1.1), host=host.model_copy(update={"versions": versions}))
    assert compared(now, releases.release())["last:latency_p50_ms"].status == "pass"


LAST_FAULTS: dict[str, tuple[str | None, dict[str, object], str]] = {
    "threads": (None, {"threads": 4}, "with threads 4, this one with threads 1"),
    "batch": (None, {"batch": 8}, "in batches of 8, this one in batches of 1"),
    "device": (None, {"device": "another"}, "the last release: measured for another"),
    "clock": (None, {"clock": "wall"}, "the last release: measured by wall time"),
    "stale": ("shipped", {"sha256": "0" * 64}, "the last release: stale"),
    "unverified": ("shipped", {"unverified": "why"}, "the last release: the engine's outputs"),
    "no starts of dense": ("dense", {"starts": ()}, "the dense engine: too few starts"),
}


@pytest.mark.parametrize("fault", LAST_FAULTS)
def test_a_last_release_that_is_no_evidence_is_nothing_to_be_compared_with(fault: str) -> None:
    engine, update, reason = LAST_FAULTS[fault]
    last = spoiled(releases.release(), engine, **update)
    check = compared(releases.release(), last)["last:first_inference_ms"]
    assert check.status == "inconclusive"
    assert reason in check.reason


def test_an_engine_that_was_not_the_one_measured_is_compared_with_nothing() -> None:
    now = spoiled(releases.release(), "shipped", sha256="0" * 64)
    found = compared(now, releases.release())
    assert {check.status for check in found.values()} == {"inconclusive"}


@pytest.mark.parametrize("engine", ["dense", "shipped"])
@pytest.mark.parametrize("load_ms", [0.0, math.nan, math.inf, -1.0])
def test_starts_of_either_engine_that_took_no_time_are_compared_with_nothing(
    engine: str, load_ms: float
) -> None:
    starts = getattr(releases.measurement(), engine).starts
    broken = (starts[0].model_copy(update={"load_ms": load_ms}), *starts[1:])
    last = spoiled(releases.release(), engine, starts=broken)
    for pair in ((releases.release(), last), (last, releases.release())):
        check = compared(*pair)["last:first_inference_ms"]
        assert check.status == "inconclusive"
        assert "nan" not in check.reason


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
    assert "measure more processes and starts" in check.reason


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
