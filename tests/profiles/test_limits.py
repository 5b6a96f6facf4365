"""The table of limits: one entry for each field of a budget, and all else follows from it."""

import math

import pytest
from known_measurement import DEVICE

from profiles.budget import Budget
from profiles.figures import FIGURES
from profiles.limits import LIMITS, limit_of, not_measured_on
from profiles.statistics import Interval


def test_the_table_holds_the_fields_of_a_budget_in_their_order() -> None:
    assert tuple(LIMITS) == tuple(Budget.model_fields)


def test_people_read_a_name_of_its_own_for_every_limit() -> None:
    labels = {limit.label for limit in LIMITS.values()}
    assert len(labels) == len(LIMITS)
    assert all(labels)


@pytest.mark.parametrize("name", LIMITS)
def test_the_unit_that_people_read_is_that_of_the_name(name: str) -> None:
    units = {"mib": "MiB", "ms": "ms", "mj": "mJ"}
    assert LIMITS[name].unit in (units.get(name.rpartition("_")[2], ""), "MMACs", "samples/s")


def test_accuracy_and_throughput_are_minima_and_nothing_else() -> None:
    minima = {name for name, limit in LIMITS.items() if limit.is_minimum}
    assert minima == {"top1_min", "throughput_per_s"}


def test_a_gpu_gives_no_evidence_of_memory_and_a_cpu_of_everything() -> None:
    gpu = DEVICE.model_copy(update={"compute_capability": "8.7"})
    assert not_measured_on(gpu) == {
        "peak_memory_mib",
        "peak_memory_ratio",
        "steady_memory_mib",
    }
    assert not_measured_on(DEVICE) == frozenset()


def test_what_may_not_grow_since_the_last_release_is_a_figure_that_it_has() -> None:
    compared = {name: limit for name, limit in LIMITS.items() if limit.compared_with_last}
    assert set(compared) == {
        "macs",
        "parameters",
        "engine_size_mib",
        "latency_p50_ms",
        "latency_p95_ms",
        "first_inference_ms",
        "peak_memory_mib",
    }
    assert set(compared) <= set(FIGURES)
    assert {name for name, limit in compared.items() if limit.depends_on_processor} == {
        "latency_p50_ms",
        "latency_p95_ms",
        "first_inference_ms",
    }


def test_a_check_against_the_last_release_is_of_the_same_limit() -> None:
    assert limit_of("last:macs") is limit_of("macs") is LIMITS["macs"]


def test_percentiles_ask_for_as_many_calls_as_bound_them() -> None:
    asked = {
        name: (limit.requirement.calls_in_all, limit.requirement.calls_per_process)
        for name, limit in LIMITS.items()
    }
    assert {name: calls for name, calls in asked.items() if calls != (0, 0)} == {
        "latency_p95_ms": (59, 0),
        "latency_p99_ms": (299, 0),
        "latency_p95_ratio": (0, 59),
        "frame_p95_ms": (59, 0),
        "frame_p99_ms": (299, 0),
    }


@pytest.mark.parametrize(
    ("name", "lower", "upper", "share"),
    [
        ("latency_p50_ms", 3, 4, 0.8),
        ("latency_p50_ms", 3, math.inf, math.inf),
        ("throughput_per_s", 10, 20, 0.5),
        ("throughput_per_s", 0, 20, math.inf),
        ("throughput_per_s", -math.inf, 20, math.inf),
        ("throughput_per_s", math.nan, math.nan, math.inf),
    ],
)
def test_a_bound_that_tells_nothing_takes_more_than_all_of_a_limit(
    name: str, lower: float, upper: float, share: float
) -> None:
    assert LIMITS[name].share(Interval(10, lower, upper), 5) == share
