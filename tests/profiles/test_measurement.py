"""Raw samples: what they are read back as, and the figures that follow from them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_measurement import MS, calls, engine, measurement, run, weighed
from pydantic import ValidationError

from profiles.measurement import (
    CallTimes,
    LatencyRun,
    Measurement,
    energy_mj,
    first_inference_ms,
    p95_ratio,
    peak_mib,
    throughput_per_s,
    time_ratio,
    top1_drop,
    wall_ms,
)
from profiles.statistics import Interval


def cpu(*blocks: list[int]) -> CallTimes:
    """Calls whose wall and CPU times are alike, in these blocks."""
    times = tuple(time for block in blocks for time in block)
    return CallTimes(wall_ns=times, cpu_ns=times, blocks=tuple(map(len, blocks)))


def ratio(above: list[CallTimes], below: list[CallTimes]) -> Interval:
    return time_ratio(above, below, "cpu")


def test_a_measurement_is_read_back_as_it_was() -> None:
    found = measurement()
    assert Measurement.model_validate_json(found.model_dump_json()) == found


@settings(deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_evidence_that_is_not_finite_is_read_back_as_it_was(
    scores: list[float], peak: float
) -> None:
    spoiled = engine("a" * 64, 500, scores).model_copy(update={"starts": (weighed(peak),)})
    written = measurement().model_copy(update={"shipped": spoiled}).model_dump_json()
    found = Measurement.model_validate_json(written).shipped
    assert np.array_equal(found.scores, scores, equal_nan=True)
    assert np.array_equal(found.starts[0].peak_mib, peak, equal_nan=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema_version":2', '"schema_version":1'),
        ('"macs":500', '"macs":0'),
        ('"macs":500', '"macs":NaN'),
        ('"macs":500', f'"macs":{10**400}'),
        ('"macs":500,', ""),
        ('"macs":500', '"macs":500,"more":1'),
        ('"wall_ns":[5000000', '"wall_ns":[-1'),
        ('"wall_ns":[5000000', f'"wall_ns":[{2**63}'),
        ('"blocks":[30', '"blocks":[0'),
        ('"cpu":"a CPU",', ""),
    ],
)
def test_evidence_no_measurement_can_give_is_refused(old: str, new: str) -> None:
    text = measurement().model_dump_json()
    assert old in text
    with pytest.raises(ValidationError):
        Measurement.model_validate_json(text.replace(old, new))


@pytest.mark.parametrize(
    ("wall", "cpu_times", "blocks", "whole"),
    [
        (3, 3, (1, 2), True),
        (3, 2, (1, 2), False),
        (2, 3, (1, 2), False),
        (3, 3, (1, 1), False),
        (0, 0, (), False),
    ],
)
def test_times_are_whole_when_they_are_as_many_as_their_blocks_say(
    wall: int, cpu_times: int, blocks: tuple[int, ...], whole: bool
) -> None:
    times = CallTimes(wall_ns=(5,) * wall, cpu_ns=(5,) * cpu_times, blocks=blocks)
    assert times.is_whole() == whole


def test_a_process_is_whole_when_its_engines_have_as_many_blocks() -> None:
    whole = run()
    assert whole.is_whole()
    for engine_name in ("dense", "control", "shipped"):
        for blocks in ((60,), (20, 20, 20)):
            times = calls(5, 4, blocks)
            assert not whole.model_copy(update={engine_name: times}).is_whole()


def test_a_machine_that_changes_speed_leaves_the_ratio_as_it_is() -> None:
    dense = cpu([100] * 5, [200] * 5, [400] * 5, [50] * 5)
    shipped = cpu([60] * 5, [120] * 5, [240] * 5, [30] * 5)
    assert ratio([shipped], [dense]).measured == pytest.approx(0.6)


def test_the_ratio_pairs_blocks_even_when_one_engine_made_more_calls_while_it_was_fast() -> None:
    dense, shipped = cpu([100], [200] * 9, [200] * 9), cpu([50] * 9, [100], [100])
    assert ratio([shipped], [dense]).measured == pytest.approx(0.5)
    overall = np.median(shipped.cpu_ns) / np.median(dense.cpu_ns)
    assert overall == pytest.approx(0.25)  # what unpaired medians would have said


def test_one_disturbed_block_does_not_move_the_ratio() -> None:
    dense, shipped = cpu([100], [100], [100]), cpu([50], [5000], [50])
    assert ratio([shipped], [dense]).measured == pytest.approx(0.5)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.integers(1, 1000), min_size=5, max_size=5),
)
def test_the_ratio_does_not_depend_on_the_speed_of_any_block(
    blocks: list[list[tuple[int, int]]], speeds: list[int]
) -> None:
    def pair(factors: list[int]) -> tuple[CallTimes, CallTimes]:
        scaled = [
            [(a * f, b * f) for a, b in pairs] for pairs, f in zip(blocks, factors, strict=False)
        ]
        above, below = ([[p[i] for p in pairs] for pairs in scaled] for i in range(2))
        return cpu(*above), cpu(*below)

    (slow_above, slow_below), (above, below) = pair(speeds), pair([1] * 5)
    slow, plain = ratio([slow_above], [slow_below]), ratio([above], [below])
    assert slow.measured == pytest.approx(plain.measured)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (cpu([1], [1]), cpu([1, 1])),
        (cpu([1]), cpu([0])),
        (cpu([0]), cpu([1])),
        (cpu(), cpu()),
        (cpu([1]).model_copy(update={"cpu_ns": ()}), cpu([1])),
    ],
    ids=["blocks", "no time below", "no time above", "empty", "lost"],
)
def test_times_that_cannot_be_paired_leave_no_ratio(above: CallTimes, below: CallTimes) -> None:
    assert math.isnan(ratio([above, cpu([1])], [below, cpu([1])]).measured)


def test_processes_of_different_number_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([cpu([1])], [])


def test_percentiles_are_of_each_process_and_their_median_is_the_figure() -> None:
    first = cpu([MS * n for n in range(1, 102)])  # 1 ... 101 ms: median 51, p95 96
    second = cpu([3 * MS * n for n in range(1, 102)])
    assert wall_ms([first, second], 50).measured == pytest.approx(2 * 51)
    assert wall_ms([first, second], 95).measured == pytest.approx(2 * 96)
    assert math.isnan(wall_ms([first, cpu()], 50).measured)
    assert math.isnan(wall_ms([], 50).measured)


def test_a_tail_is_bounded_over_the_processes_and_over_the_calls() -> None:
    same = [cpu([MS * n for n in range(1, 101)])] * 8
    alike = wall_ms(same, 95)
    assert alike.measured == pytest.approx(95.05)
    assert alike.upper == pytest.approx(97)  # the 771st of 800: what more calls would narrow
    apart = [cpu([MS * n * (1 + k) for n in range(1, 101)]) for k in range(8)]
    assert wall_ms(apart, 95).upper == pytest.approx(7 * 95.05)  # the slowest process but one
    assert wall_ms(same, 50).upper == pytest.approx(50.5)  # of the median no calls are pooled


def test_ratios_are_of_the_clock_asked_for() -> None:
    found = [run()] * 5
    shipped, dense = [r.shipped for r in found], [r.dense for r in found]
    assert time_ratio(shipped, dense, "cpu").measured == pytest.approx(2 / 4)
    assert time_ratio(shipped, dense, "wall").measured == pytest.approx(4 / 5)
    assert p95_ratio(shipped, dense, "wall").measured == pytest.approx(4 / 5)
    assert math.isnan(p95_ratio([cpu([0])], [cpu([1])], "cpu").measured)


def test_throughput_counts_samples_and_not_calls() -> None:
    calls_of_4_ms = [run().shipped] * 5
    assert throughput_per_s(calls_of_4_ms, 1).measured == pytest.approx(250)
    assert throughput_per_s(calls_of_4_ms, 8).measured == pytest.approx(2000)
    assert math.isnan(throughput_per_s([cpu()], 1).measured)


def test_the_first_inference_is_loading_and_one_call() -> None:
    found = first_inference_ms([weighed(load_ms=ms) for ms in (8, 9, 10, 11, 12)])
    assert (found.lower, found.measured, found.upper) == (10, 12, 14)


@pytest.mark.parametrize("counted", [None, 0.0, -1.0, math.nan])
def test_energy_that_one_process_lacks_is_missing(counted: float | None) -> None:
    broken = run().model_copy(update={"energy_mj": counted})
    assert math.isnan(energy_mj([broken, *[run()] * 4]).upper)


def test_samples_that_are_not_the_same_are_not_paired() -> None:
    found = measurement()
    other = found.shipped.model_copy(update={"samples_sha256": "8" * 64})
    assert math.isnan(top1_drop(found.model_copy(update={"shipped": other})).measured)


def test_memory_is_the_worst_run_and_five_percent() -> None:
    found = peak_mib([weighed(60), weighed(70), weighed(50)])
    assert (found.measured, found.lower) == (30, 10)
    assert found.upper == pytest.approx(31.5)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_run_without_a_figure_hides_in_no_maximum(place: int) -> None:
    runs = [weighed(math.nan if i == place else 60) for i in range(3)]
    found = peak_mib(runs)
    assert math.isnan(found.measured)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert math.isnan(peak_mib([]).upper)


def test_the_drop_is_what_the_shipped_engine_lost() -> None:
    found = measurement()
    assert top1_drop(found).measured == pytest.approx(0.1)
    swapped = found.model_copy(update={"dense": found.shipped, "shipped": found.dense})
    assert top1_drop(swapped).measured == pytest.approx(-0.1)


def test_a_measurement_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        measurement().threads = 2  # type: ignore[misc]
    assert isinstance(run(), LatencyRun)
