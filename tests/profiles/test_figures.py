"""The figures that people compare, of one engine at a time."""

import math

import pytest
from known_measurement import engine, measurement

from profiles.figures import EngineSamples, dense_samples, figures_of, shipped_samples


def test_the_figures_of_an_engine_are_those_known_by_hand() -> None:
    found = measurement()
    assert figures_of(shipped_samples(found)) == pytest.approx(
        {
            "top1": 0.9,
            "macs": 500,
            "flops": 1000,
            "parameters": 50,
            "engine_size_mib": 1,
            "latency_p50_ms": 4,
            "latency_p95_ms": 4,
            "latency_p99_ms": 4,
            "cpu_p50_ms": 2,
            "throughput_per_s": 250,
            "first_inference_ms": 10,
            "peak_memory_mib": 20,
            "steady_memory_mib": 15,
        }
    )


def test_the_figures_that_were_not_measured_are_nan() -> None:
    bare = engine("a" * 64, 500, []).model_copy(update={"starts": ()})
    found = figures_of(EngineSamples(bare, [], 1))
    known = {"macs", "flops", "parameters", "engine_size_mib"}
    assert {name for name, figure in found.items() if not math.isnan(figure)} == known


def test_the_figures_of_the_dense_engine_are_of_its_own_samples() -> None:
    found = figures_of(dense_samples(measurement()))
    assert (found["macs"], found["latency_p50_ms"], found["cpu_p50_ms"]) == (1000, 5, 4)
