"""The gate: what is within the limit for certain passes, and nothing else does."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from evidence import (
    COUNTS,
    DEVICE,
    LOOSE,
    METRICS,
    TIMES,
    Case,
    calls,
    loose,
    measurement,
    run,
    weighed,
)

from profiles.gate import (
    ESTIMATES,
    EXIT_CODES,
    MAX_CONTROL_ERROR,
    MIN_MEMORY_RUNS,
    MIN_PROCESSES,
    MIN_SAMPLES,
    Check,
    Status,
    Verdict,
)
from profiles.measurement import LatencyRun
from profiles.statistics import tango_upper


def at_limit(case: Case, metric: str) -> Case:
    return case.limited(metric, ESTIMATES[metric](measurement()).upper)


def over(case: Case, metric: str) -> Case:
    lower = ESTIMATES[metric](measurement()).lower
    return case.limited(metric, math.floor(lower - 1) if metric in COUNTS[::2] else 0.9 * lower)


def not_a_number(case: Case, metric: str) -> Case:
    return case.shipped(FIELDS[metric], math.nan)


def infinite(case: Case, metric: str) -> Case:
    return case.shipped(FIELDS[metric], math.inf)


FIELDS = {
    "macs": "macs",
    "macs_ratio": "macs",
    "parameters": "parameters",
    "engine_size_mib": "size_bytes",
}
Spoil = Callable[[Case, str], Case]
SPOILED: Mapping[str, Mapping[str, Spoil]] = {
    "any": {
        "over": over,
        "stale": lambda case, _: replace(case, sha256="6" * 64),
        "another device": lambda case, _: replace(case, device_name="other"),
        "another machine": lambda case, _: replace(
            case, device=DEVICE.model_copy(update={"machine": "aarch64"})
        ),
        "other threads": lambda case, _: replace(
            case, device=DEVICE.model_copy(update={"threads": 4})
        ),
    },
    "counted": {
        "NaN": not_a_number,
        "infinite": infinite,
        "below any limit": lambda case, metric: case.shipped(FIELDS[metric], -math.inf),
    },
    "scored": {
        "NaN": lambda case, _: case.scored([math.nan, *[1.0] * 399]),
        "infinite": lambda case, _: case.scored([math.inf, *[1.0] * 399]),
        "missing": lambda case, _: case.scored([]),
        "one missing": lambda case, _: case.scored([1.0] * 399),
    },
    "timed": {
        "missing": lambda case, _: case.timed([]),
        "few processes": lambda case, _: case.timed([run()] * (MIN_PROCESSES - 1)),
        "few samples": lambda case, _: case.timed([short((6, 4)), *[run()] * 4]),
        "unsettled": lambda case, _: case.timed([unsettled(), *[run()] * 4]),
        "noisy control": lambda case, _: case.timed([run(control_ms=4.09)] * 5),
        "control without time": lambda case, _: case.timed([run(control_ms=0)] * 5),
        "no time passed": lambda case, _: case.timed([run(shipped_ms=0)] * 5),
        "a time lost": lambda case, _: case.timed([cut(), *[run()] * 4]),
        "a block lost": lambda case, _: case.timed([short((12,)), *[run()] * 4]),
    },
    "weighed": {
        "NaN": lambda case, _: case.weighed([weighed(math.nan), weighed(), weighed()]),
        "infinite": lambda case, _: case.weighed([weighed(math.inf), weighed(), weighed()]),
        "missing": lambda case, _: case.weighed([]),
        "few runs": lambda case, _: case.weighed([weighed()] * (MIN_MEMORY_RUNS - 1)),
        "below its baseline": lambda case, _: case.weighed([weighed(39), weighed(), weighed()]),
        "no baseline": lambda case, _: case.weighed([weighed(10, 0), weighed(), weighed()]),
    },
}
GOOD: Mapping[str, Spoil] = {"ok": lambda case, _: case, "at limit": at_limit}


def short(blocks: Sequence[int]) -> LatencyRun:
    """A process whose shipped engine was called in these blocks."""
    return run().model_copy(update={"shipped": calls(4, 2, blocks)})


def unsettled() -> LatencyRun:
    return run().model_copy(update={"warm": False})


def cut() -> LatencyRun:
    """A process whose last CPU time got lost."""
    times = run().shipped
    return run().model_copy(
        update={"shipped": times.model_copy(update={"cpu_ns": times.cpu_ns[:-1]})}
    )


def kind_of(metric: str) -> str:
    if metric in COUNTS:
        return "counted"
    return "timed" if metric in TIMES else "scored" if metric == "top1_drop" else "weighed"


BAD = [
    (metric, name, spoil)
    for metric in METRICS
    for name, spoil in (*SPOILED["any"].items(), *SPOILED[kind_of(metric)].items())
]
ALL = [(metric, name, spoil) for metric in METRICS for name, spoil in GOOD.items()] + BAD


def test_every_limit_has_an_estimate() -> None:
    assert set(ESTIMATES) == set(METRICS) == set(LOOSE)


def test_only_pass_leaves_with_zero() -> None:
    assert EXIT_CODES == {"pass": 0, "fail": 1, "inconclusive": 6}


def test_the_thresholds_are_the_documented_ones() -> None:
    assert (MIN_PROCESSES, MIN_SAMPLES, MAX_CONTROL_ERROR, MIN_MEMORY_RUNS) == (5, 59, 0.02, 3)
    assert 1 - 0.95**MIN_SAMPLES > 0.95 > 1 - 0.95 ** (MIN_SAMPLES - 1)


def test_the_figures_are_those_known_by_hand() -> None:
    checks = {check.name: check for check in loose(*METRICS).verdict().checks}
    figures = {name: check.measured for name, check in checks.items()}
    assert figures == pytest.approx(
        {
            "top1_drop": 0.1,
            "macs": 500,
            "macs_ratio": 0.5,
            "parameters": 50,
            "engine_size_mib": 1,
            "latency_p50_ms": 4,
            "latency_p95_ms": 4,
            "latency_p50_ratio": 0.5,
            "peak_memory_mib": 20,
        }
    )
    assert checks["top1_drop"].upper == tango_upper(40, 0, 400)
    assert checks["peak_memory_mib"].upper == pytest.approx(21)
    assert all(check.reason == "" for check in checks.values())


@pytest.mark.parametrize("metric", METRICS)
def test_a_limit_passes_up_to_its_very_bound(metric: str) -> None:
    upper = ESTIMATES[metric](measurement()).upper
    assert at_limit(loose(metric), metric).check().status == "pass"
    below = upper - 1 if metric in COUNTS[::2] else math.nextafter(upper, 0)
    assert loose(metric).limited(metric, below).check().status != "pass"


@pytest.mark.parametrize("metric", METRICS)
def test_a_figure_surely_over_its_limit_fails(metric: str) -> None:
    check = over(loose(metric), metric).check()
    assert (check.status, check.reason[:7]) == ("fail", "over by")


@pytest.mark.parametrize("metric", ["top1_drop", "peak_memory_mib"])
def test_a_limit_inside_the_interval_is_inconclusive(metric: str) -> None:
    check = loose(metric).limited(metric, ESTIMATES[metric](measurement()).measured).check()
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


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in TIMES])
def test_an_infinite_figure_never_passes(metric: str) -> None:
    assert SPOILED[kind_of(metric)]["infinite"](loose(metric), metric).check().status != "pass"


@pytest.mark.parametrize("metric", METRICS)
def test_a_fault_outweighs_a_figure_over_the_limit(metric: str) -> None:
    stale = replace(over(loose(metric), metric), sha256="6" * 64)
    assert stale.check().status == "inconclusive"


def test_the_control_may_differ_by_two_percent_either_way_and_no_more() -> None:
    for ratio, status in ((0.981, "pass"), (1.019, "pass"), (0.979, ""), (1.021, "")):
        case = loose("latency_p50_ms").timed([run(control_ms=4 * ratio)] * 5)
        assert case.check().status == (status or "inconclusive"), ratio


def test_fifty_nine_samples_are_enough_and_fifty_eight_are_not() -> None:
    for blocks, status in (((6, 5), "pass"), ((6, 4), "inconclusive")):
        case = loose("latency_p95_ms").timed([short(blocks), *[run()] * 4])
        assert case.check().status == status


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


def test_a_device_without_a_machine_takes_any() -> None:
    anywhere = DEVICE.model_copy(update={"machine": None})
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
    ],
)
def test_the_worst_check_is_the_verdict_and_no_check_is_none(
    statuses: tuple[Status, ...], whole: Status
) -> None:
    checks = tuple(Check("macs", 1, 1, 1, 1, status, "") for status in statuses)
    assert Verdict(checks).status == whole


def test_no_pair_of_items_passes_with_any_fault_in_it() -> None:
    rows = 0
    for (first, name, spoil), (second, other, ruin) in combinations(ALL, 2):
        case = ruin(spoil(loose(first, second), first), second)
        good = name in GOOD and other in GOOD
        assert (case.verdict().status == "pass") == good, (first, name, second, other)
        rows += 1
    assert rows > 2000
