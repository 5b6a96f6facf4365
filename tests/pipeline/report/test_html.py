"""The page: what is read first, what is shown of the evidence, and that nothing in it runs."""

import math
import time
from dataclasses import replace
from datetime import date

import pytest
import releases
from html_pages import Page
from user_project import Project

from pipeline.release.bundle import Judged, Release
from pipeline.report.content import ReportContent
from pipeline.report.html import page
from pipeline.report.target_section import NOT_REPORTED
from pipeline.store.reports import GroupReport
from profiles.budget import Budget
from profiles.gate import EngineForDevice, judge
from profiles.machine.conditions import Conditions
from profiles.waiver import AcceptedWaivers, Waiver

REASON = "the new board comes in autumn"


def shown(found: Release) -> Page:
    """The page of a release, with every section there is."""
    return Page(page(releases.report_content(found)))


def with_budget(**limits: float) -> Release:
    budget = Budget.model_validate({**releases.BUDGET.limits(), **limits})
    return releases.release(releases.judged(releases.measurement(), budget))


def waived() -> Release:
    """A release whose median time is over its limit, and somebody answers for it."""
    judged = with_budget(latency_p50_ms=7.9).targets[0]
    waiver = Waiver(
        check="latency_p50_ms",
        device="camera",
        engine_sha256=releases.SHIPPED_SHA,
        limit=8.5,
        reason=REASON,
        signed_off_by="the release owner",
        expires=date(2030, 1, 1),
    )
    terms = judged.terms
    verdict = judge(
        judged.measurement,
        terms.budget,
        EngineForDevice(releases.SHIPPED_SHA, "camera", terms.device),
        AcceptedWaivers((waiver,), date(2029, 1, 1)),
    )
    return releases.release(Judged(terms, judged.engine, judged.measurement, verdict))


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({}, "pass"),
        ({"latency_p50_ms": 5.0}, "fail"),
        ({"frame_p95_ms": 20.0}, "inconclusive"),
    ],
)
def test_the_verdict_is_the_first_heading_and_the_title(
    limits: dict[str, float], status: str
) -> None:
    found = shown(with_budget(**limits))
    heading = next(node for node in found.nodes if node.tag in ("h1", "h2", "h3"))
    assert (heading.tag, heading.text) == ("h1", status.upper())
    assert status in found.one("header").attributes["class"]
    assert found.all("title")[0].text.startswith(f"{status.upper()}: camera")


def test_every_check_that_did_not_pass_is_in_the_banner_with_its_reason() -> None:
    banner = shown(with_budget(latency_p50_ms=5.0, frame_p95_ms=20.0)).one("header").text
    assert "Median time of a call on camera: 7.975 ms, limit ≤ 5 ms. over by 2.975" in banner
    assert "not measured at a fixed frame interval" in banner


def test_a_waived_check_is_told_as_waived_beside_the_pass() -> None:
    found = shown(waived())
    assert found.one("h1").text == "PASS"
    told = found.one("li", "waived").text
    assert told.startswith("waived Median time of a call on camera: 7.975 ms, limit ≤ 7.9 ms.")
    assert f"waived until 2030-01-01 by the release owner: {REASON}" in told
    assert "by waiver" in found.one("p", "lead").text
    assert "1 waived" in found.one("header").text


def test_the_budget_shows_figure_bounds_limit_and_what_is_left() -> None:
    rows = [row.text for row in shown(with_budget(throughput_per_s=100)).all("tr", "pass")]
    assert any(
        "latency_p50_ms" in row and "7.975 ms [7.938, 8.029] ≤ 9 ms pass 11% to spare" in row
        for row in rows
    )
    assert any("≥ 100 samples/s pass" in row for row in rows)


def test_answers_are_counted_by_who_was_right() -> None:
    scores = ((1.0, 1.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    dense, shipped = zip(*scores, strict=True)
    table = shown(scored(dense, shipped)).one("table", "answers").text
    assert table == "samples shipped right shipped wrong dense right 2 1 dense wrong 1 3"


def test_scores_between_right_and_wrong_get_no_table_of_answers() -> None:
    found = shown(scored((0.5, 0.75, 0.25), (0.5, 0.5, 0.5)))
    assert not found.all("table", "answers")
    assert any(
        "1 score lower than with the dense engine, 1 higher" in p.text for p in found.all("p")
    )


def test_scores_of_other_samples_are_not_paired() -> None:
    found = shown(changed(shipped={"samples_sha256": "b" * 64}))
    assert not found.all("table", "answers")
    text = found.one("main").text
    assert "The engines were not scored on the same samples" in text
    assert "The labels are not of the samples that were scored." in text


def test_the_ten_classes_that_lose_most_come_worst_first() -> None:
    dense = [1.0] * 1200
    shipped = [float(k // 12 >= 5 * (k % 12)) for k in range(1200)]
    labels = tuple(k % 12 for k in range(1200))
    found = shown(changed({"scores": tuple(dense)}, {"scores": tuple(shipped)}, labels=labels))
    names = [node.text for node in found.all("text", "name")]
    classes = [name for name in names if name.startswith("class ")]
    assert classes == [f"class {label}" for label in range(11, 1, -1)]
    assert "1.000 → 0.450, 100 samples" in found.one("main").text


def test_several_targets_are_compared_and_each_has_its_own_section() -> None:
    targets = [
        releases.judged(releases.measurement(name, ms))
        for name, ms in (("camera", 8), ("bell", 11))
    ]
    found = shown(releases.release(*targets))
    assert [node.attributes["href"] for node in found.all("a")] == ["#target-1", "#target-2"]
    ids = [node.attributes.get("id") for node in found.all("section")]
    assert [name for name in ids if name] == ["target-1", "target-2"]
    (told,) = [node.text for node in found.all("desc") if "bell: score" in node.text]
    assert told.endswith("camera: score 0.8955, 0.571; bell: score 0.8955, 0.785.")


def test_every_layer_of_a_long_list_is_drawn_with_its_numbers() -> None:
    groups = {
        f"layer.{n}": GroupReport(units=n + 2, kept=n + 1, lowest_kept=0.2, highest_removed=0.1)
        for n in range(200)
    }
    found = Release(
        releases.pruned().model_copy(update={"groups": groups}), releases.release().targets
    )
    texts = {node.text for node in shown(found).all("text")}
    assert {f"layer.{n}" for n in range(200)} <= texts
    assert {f"{n + 1} of {n + 2}" for n in range(200)} <= texts


def test_a_drawing_tells_in_words_what_it_shows() -> None:
    found = shown(waived())
    drawings = found.all("svg")
    assert len(drawings) > 15
    assert all(node.attributes["role"] == "img" for node in drawings)
    for at, node in enumerate(found.nodes):
        if node.tag == "svg":
            title, description = found.nodes[at + 1 : at + 3]
            assert (title.tag, description.tag) == ("title", "desc")
            assert title.text
            assert description.text


def test_limits_on_times_are_drawn_and_those_far_off_are_named() -> None:
    texts = [node.text for node in shown(with_budget(latency_p99_ms=90)).all("text", "limit-text")]
    assert texts.count("p50 ≤ 9") == 2
    assert texts.count("p99 ≤ 90 →") == 2


def test_the_evidence_behind_the_engine_is_told() -> None:
    text = shown(releases.release()).one("main").text
    for told in (
        releases.SHIPPED_SHA,
        releases.DENSE_SHA,
        releases.SAMPLES_SHA,
        "Camera Board 5, Cortex-A76, 4 processors, aarch64, Linux 6.12",
        "onnxruntime 1.31.1",
        "3.8e-07 ONNX",
        "1.2e-07 simplified ONNX",
        "6.3e-07 engine",
        "features.3.conv.0.0.weight 70 80 6.0%",
        "Energy was not measured",
        "temperature, °C 55",
        "cd927f739958",
    ):
        assert told in text


def test_conditions_the_machine_does_not_tell_are_said_to_be_untold() -> None:
    looks = (bare_look(0.0), bare_look(1.0))
    runs = [run.model_copy(update={"conditions": looks}) for run in releases.latency()]
    text = shown(changed(latency=tuple(runs))).one("main").text
    assert text.count(NOT_REPORTED) == 6
    assert "temperature, °C " + NOT_REPORTED in text


def bare_look(at_s: float) -> Conditions:
    return Conditions(
        at_s=at_s,
        load_1min=None,
        others_cpu_s=None,
        mhz=None,
        governor=None,
        temperature_c=None,
        throttled=None,
        throttle_events=None,
    )


def changed(
    dense: dict[str, object] | None = None,
    shipped: dict[str, object] | None = None,
    **fields: object,
) -> Release:
    """A release with fields of its measurement or of an engine's evidence replaced."""
    found = releases.measurement()
    engines = {
        "dense": found.dense.model_copy(update=dense or {}),
        "shipped": found.shipped.model_copy(update=shipped or {}),
    }
    measurement = found.model_copy(update={**engines, **fields})
    return releases.release(releases.judged(measurement))


def scored(
    dense: "tuple[float, ...] | list[float]", shipped: "tuple[float, ...] | list[float]"
) -> Release:
    return changed({"scores": tuple(dense)}, {"scores": tuple(shipped)})


def test_no_evidence_at_all_makes_a_page_that_says_so() -> None:
    none = {"scores": (), "starts": (), "samples_sha256": "", "unverified": "it cannot run here"}
    never = {**none, "parity_error": math.nan}
    pruned = releases.pruned().model_copy(update={"trials": (), "groups": {}, "refused": {}})
    found = Release(pruned, changed(never, never, latency=(), labels=()).targets)
    source = page(ReportContent(found, None, None, releases.EXPORTED, ()))
    assert Page(source).one("h1").text == "INCONCLUSIVE"
    assert source.count("Nothing was measured that could be drawn") == 5
    assert "nan" not in Page(source).one("main").text.split()
    assert "it cannot run here" in source


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 0.0, 1e308])
def test_odd_figures_never_break_a_drawing(odd: float) -> None:
    start = releases.starts(36)[0]
    names = ("load_ms", "first_ms", "baseline_mib", "peak_mib", "steady_mib")
    starts = [start.model_copy(update={name: odd}) for name in names]
    look = replace(bare_look(odd), mhz=odd, temperature_c=odd, load_1min=odd)
    runs = [run.model_copy(update={"conditions": (look, look)}) for run in releases.latency()]
    engine = {"starts": tuple(starts), "parity_error": odd}
    if abs(odd) < 2 or math.isnan(odd):
        engine["scores"] = (odd,) * releases.SAMPLES
    trials = [t.model_copy(update={"distance": odd}) for t in releases.pruned().trials]
    pruned = releases.pruned().model_copy(update={"trials": tuple(trials)})
    found = Release(pruned, changed(engine, engine, latency=tuple(runs)).targets)
    drawn = shown(found)
    places = [
        value
        for node in drawn.nodes
        for name, value in node.attributes.items()
        if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "d")
    ]
    assert len(places) > 500
    assert not [value for value in places if "nan" in value or "inf" in value]


def test_calls_without_a_clock_are_drawn_as_they_are() -> None:
    stuck = releases.latency()[0].dense.model_copy(update={"wall_ns": (0,) * 300})
    runs = [run.model_copy(update={"dense": stuck, "shipped": stuck}) for run in releases.latency()]
    found = shown(changed(latency=tuple(runs)))
    assert "Nothing was measured" not in found.one("main").text
    assert "NaN" not in found.one("main").text


def test_a_run_puts_the_page_into_its_bundle(complete: Project) -> None:
    found = Page((complete.bundle / "report.html").read_text(encoding="utf-8"))
    assert found.one("h1").text == "PASS"
    manifest = (complete.bundle / "MANIFEST.json").read_text()
    assert "report.html" in manifest


def test_much_evidence_makes_a_small_page_soon() -> None:
    found = changed(latency=releases.latency(processes=8, count=20_000, paced=True))
    begun = time.monotonic()
    source = page(releases.report_content(found))
    assert time.monotonic() - begun < 15
    assert len(source.encode()) < 500_000
    assert "480,000 calls in 8 processes" in source
    assert "at most 400 of each engine's calls" in Page(source).one("main").text
