"""The gate: what is within the limit for certain passes, and nothing else does."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from known_measurement import (
    DEVICE,
    LOOSE,
    METRICS,
    calls,
    loose,
    measurement,
    run,
)
from measurement_faults import (
    ALL,
    BAD,
    GOOD,
    WHOLE,
    Spoil,
    at_limit,
    bound,
    changed,
    over,
)

from profiles.device import Identity
from profiles.gate import EXIT_CODES, Check, Outcome, Status, Verdict, worst
from profiles.host import HostGpu
from profiles.limits import LIMITS
from profiles.measurement import LatencyRun
from profiles.requirements import MAX_CONTROL_ERROR, MIN_PROCESSES, MIN_SAMPLES, MIN_STARTS
from profiles.statistics import tango_upper


def test_every_limit_is_tried_here() -> None:
    assert set(LIMITS) == set(METRICS) == set(LOOSE)


def test_only_pass_leaves_with_zero() -> None:
    assert EXIT_CODES == {"pass": 0, "fail": 1, "inconclusive": 6}


def test_the_thresholds_are_the_documented_ones() -> None:
    assert (MIN_PROCESSES, MAX_CONTROL_ERROR, MIN_STARTS) == (5, 0.01, 3)
    assert MIN_SAMPLES == {95: 59, 99: 299}
    for percentile, least in MIN_SAMPLES.items():
        below = percentile / 100
        assert 1 - below**least > 0.95 > 1 - below ** (least - 1)


def test_the_figures_are_those_known_by_hand() -> None:
    checks = {check.name: check for check in loose(*METRICS).verdict().checks}
    figures = {name: check.measured for name, check in checks.items()}
    assert figures == pytest.approx(
        {
            "top1_drop": 0.1,
            "top1_min": 0.9,
            "parity_error": 1e-6,
            "macs": 500,
            "macs_ratio": 0.5,
            "parameters": 50,
            "parameters_ratio": 0.5,
            "engine_size_mib": 1,
            "engine_size_ratio": 0.5,
            "latency_p50_ms": 4,
            "latency_p95_ms": 4,
            "latency_p99_ms": 4,
            "latency_p50_ratio": 0.5,
            "latency_p95_ratio": 0.5,
            "frame_p95_ms": 6,
            "frame_p99_ms": 6,
            "first_inference_ms": 10,
            "peak_memory_mib": 20,
            "peak_memory_ratio": 1,
            "steady_memory_mib": 15,
            "throughput_per_s": 250,
            "energy_mj": 20,
        }
    )
    assert checks["top1_drop"].upper == tango_upper(40, 0, 400)
    assert checks["peak_memory_mib"].upper == pytest.approx(21)
    assert all(check.reason == "" for check in checks.values())


@pytest.mark.parametrize("metric", METRICS)
def test_a_limit_passes_up_to_its_very_bound(metric: str) -> None:
    assert at_limit(loose(metric), metric).check().status == "pass"
    limit = bound(metric)
    beyond = math.nextafter(limit, math.inf if LIMITS[metric].is_minimum else 0)
    missed = limit - 1 if metric in WHOLE else beyond
    assert loose(metric).limited(metric, missed).check().status != "pass"


@pytest.mark.parametrize("metric", METRICS)
def test_a_figure_surely_over_its_limit_fails(metric: str) -> None:
    check = over(loose(metric), metric).check()
    word = "short by" if LIMITS[metric].is_minimum else "over by"
    assert (check.status, check.reason[: len(word)]) == ("fail", word)


# Of 400 samples in two equal classes; the exact 95 % bound is above one half from 217 on.
@pytest.mark.parametrize(("right", "status"), [(400, "pass"), (217, "pass"), (216, "inconclusive")])
def test_a_dense_network_that_may_be_guessing_has_nothing_to_lose(
    right: int, status: Status
) -> None:
    scores = (1.0,) * right + (0.0,) * (400 - right)
    case = loose("top1_drop").scored(scores)
    dense = case.measurement.dense.model_copy(update={"scores": scores})
    found = replace(case, measurement=case.measurement.model_copy(update={"dense": dense})).check()
    assert (found.status, found.measured) == (status, 0)
    assert found.reason.count("always answering the commonest class (0.5)") == (right == 216)


def test_a_network_that_answers_the_commonest_class_alone_is_no_better_than_chance() -> None:
    case = loose("top1_drop")
    labels = (0,) * 300 + (1,) * 100
    found = case.measurement.model_copy(
        update={
            "labels": labels,
            "dense": case.measurement.dense.model_copy(
                update={"scores": tuple(float(label == 0) for label in labels)}
            ),
        }
    )
    check = replace(case, measurement=found).check()
    assert check.status == "inconclusive"
    assert "commonest class (0.75)" in check.reason


def test_the_least_accuracy_is_held_to_its_exact_lower_bound() -> None:
    """360 of 400: Clopper and Pearson's 95 % lower bound is 0.8718."""
    found = loose("top1_min").limited("top1_min", 0.871).check()
    assert (found.status, found.measured) == ("pass", 0.9)
    assert found.lower == pytest.approx(0.8718, abs=1e-4)
    assert loose("top1_min").limited("top1_min", 0.872).check().status == "inconclusive"
    assert loose("top1_min").limited("top1_min", 0.95).check().status == "fail"


@pytest.mark.parametrize("metric", ["top1_drop", "peak_memory_mib"])
def test_a_limit_inside_the_interval_is_inconclusive(metric: str) -> None:
    check = loose(metric).limited(metric, LIMITS[metric].estimate(measurement()).measured).check()
    assert check.lower <= check.limit < check.upper
    assert check.status == "inconclusive"


@pytest.mark.parametrize(
    ("metric", "spoil"),
    [(metric, spoil) for metric, name, spoil in BAD if name not in ("over", "infinite")],
    ids=[f"{metric} {name}" for metric, name, _ in BAD if name not in ("over", "infinite")],
)
def test_evidence_with_a_fault_is_inconclusive_and_says_why(metric: str, spoil: Spoil) -> None:
    check = spoil(loose(metric), metric).check()
    assert check.status == "inconclusive"
    assert check.reason


INFINITE = [(metric, spoil) for metric, name, spoil in BAD if name == "infinite"]


@pytest.mark.parametrize(("metric", "spoil"), INFINITE, ids=[metric for metric, _ in INFINITE])
def test_an_infinite_figure_never_passes(metric: str, spoil: Spoil) -> None:
    assert loose(metric).check().status == "pass"
    assert spoil(loose(metric), metric).check().status != "pass"


@pytest.mark.parametrize("metric", METRICS)
def test_a_fault_outweighs_a_figure_over_the_limit(metric: str) -> None:
    stale = replace(over(loose(metric), metric), sha256="6" * 64)
    assert stale.check().status == "inconclusive"


def test_the_control_may_differ_by_one_percent_either_way_and_no_more() -> None:
    for ratio, status in ((0.991, "pass"), (1.009, "pass"), (0.989, ""), (1.011, "")):
        case = loose("latency_p50_ms").timed([run(control_ms=4 * ratio)] * 5)
        assert case.check().status == (status or "inconclusive"), ratio


@pytest.mark.parametrize(
    ("metric", "least"), [("latency_p95_ms", 59), ("latency_p99_ms", 299), ("frame_p99_ms", 299)]
)
def test_a_percentile_needs_as_many_calls_as_bound_it(metric: str, least: int) -> None:
    few = (5, 5)
    for calls_made, status in ((least, "pass"), (least - 1, "inconclusive")):
        counts = [(calls_made - 40, 0)] + [(10, 0)] * 4
        runs = [shortened(few if count == 10 else (5, count - 5), count) for count, _ in counts]
        assert loose(metric).timed(runs).check().status == status


def shortened(blocks: Sequence[int], frames: int) -> LatencyRun:
    """A process with as few calls of every engine, and frames."""
    return changed(
        dense=calls(5, 4, blocks),
        control=calls(5, 4, blocks),
        shipped=calls(4, 2, blocks),
        frames_ns=(6_000_000,) * frames,
    )


def test_a_ratio_of_tails_needs_the_calls_in_every_process() -> None:
    for blocks, status in (((30, 29), "pass"), ((30, 28), "inconclusive")):
        runs = [shortened(blocks, 60), *[run()] * 4]
        assert loose("latency_p95_ratio").timed(runs).check().status == status


def test_a_process_is_one_sample_however_many_calls_it_made() -> None:
    runs = [run(shipped_ms=ms) for ms in (2.0, 2.1, 2.2, 2.3, 2.4)]
    long = [
        one.model_copy(
            update={
                "dense": calls(5, 4, (600, 600)),
                "control": calls(5, 4, (600, 600)),
                "shipped": calls(one.shipped.wall_ns[0] / 1e6, 2, (600, 600)),
            }
        )
        for one in runs
    ]
    short_check, long_check = (loose("latency_p50_ms").timed(r).check() for r in (runs, long))
    assert short_check == long_check


@pytest.mark.parametrize("name", ["peak_memory_mib", "peak_memory_ratio", "macs"])
def test_memory_of_a_gpu_is_not_that_of_the_process(name: str) -> None:
    gpu = HostGpu(ordinal=0, name="a GPU", compute_capability="8.7")
    evidence = loose(name)
    found = evidence.measurement
    there = found.model_copy(
        update={"clock": "wall", "host": found.host.model_copy(update={"gpus": (gpu,)})}
    )
    on_gpu = DEVICE.model_copy(update={"compute_capability": "8.7"})
    check = replace(evidence, measurement=there, device=on_gpu).check()
    assert check.status == ("pass" if name == "macs" else "inconclusive")
    assert ("the GPU's memory was not measured" in check.reason) == (name != "macs")


def test_a_device_without_an_identity_takes_any_machine() -> None:
    anywhere = DEVICE.model_copy(update={"identity": Identity()})
    assert replace(loose("macs"), device=anywhere).check().status == "pass"


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        ((), "inconclusive"),
        (("pass",), "pass"),
        (("pass", "pass"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("pass", "fail"), "fail"),
        (("inconclusive", "fail"), "fail"),
        (("fail", "inconclusive", "pass"), "fail"),
        (("waived",), "pass"),
        (("waived", "pass"), "pass"),
        (("waived", "inconclusive"), "inconclusive"),
        (("waived", "fail"), "fail"),
    ],
)
def test_the_worst_check_is_the_verdict_and_no_check_is_none(
    statuses: tuple[Status, ...], whole: Outcome
) -> None:
    checks = tuple(Check("macs", 1, 1, 1, 1, status, "") for status in statuses)
    assert Verdict(checks).status == whole


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ((), "inconclusive"),
        (("pass", "pass"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("pass", "fail", "inconclusive"), "fail"),
    ],
)
def test_the_worst_device_decides(outcomes: tuple[Outcome, ...], whole: Outcome) -> None:
    assert worst(outcomes) == whole


def test_no_pair_of_items_passes_with_any_fault_in_it() -> None:
    rows = 0
    for (first, name, spoil), (second, other, ruin) in combinations(SOME, 2):
        case = ruin(spoil(loose(first, second), first), second)
        good = name in GOOD and other in GOOD
        assert (case.verdict().status == "pass") == good, (first, name, second, other)
        rows += 1
    assert rows > 2000


SOME = [
    row
    for row in ALL
    if row[0] in ("top1_drop", "macs_ratio", "latency_p99_ms", "frame_p95_ms", "peak_memory_mib")
]
"""One metric of each kind; tests/benchmarks/gate_table.py pairs them all."""
