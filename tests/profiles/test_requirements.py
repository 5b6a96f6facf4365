"""What the machine must have been like for the samples behind a figure to count."""

from dataclasses import replace

import pytest
from known_measurement import DEVICE, FRAMES, RATIOS, WALLS, look, loose, measurement, run, weighed
from measurement_faults import changed, crowded, load, stopped

from profiles.machine.conditions import Conditions


def test_other_processes_void_wall_times_and_leave_ratios_of_cpu_time() -> None:
    for metric in (*WALLS, *FRAMES, "first_inference_ms"):
        assert loose(metric).timed([crowded()] * 5).check().status == "inconclusive"
    for metric in RATIOS:
        assert loose(metric).timed([crowded()] * 5).check().status == "pass"


@pytest.mark.parametrize("metric", [*WALLS, *FRAMES, "first_inference_ms"])
def test_wall_times_of_a_machine_that_does_not_tell_its_load_count_for_nothing(
    metric: str,
) -> None:
    check = loose(metric).timed([load(None, None)] * 5).check()
    assert check.status == "inconclusive"
    assert "(Linux) did not tell the CPU time of other processes" in check.reason
    check = loose(metric).timed([stopped(0)] * 5).check()
    assert check.status == "inconclusive"
    assert "clock did not advance" in check.reason


def test_ratios_of_cpu_time_need_no_word_on_the_load() -> None:
    for metric in RATIOS:
        assert loose(metric).timed([load(None, None)] * 5).check().status == "pass"


@pytest.mark.parametrize(
    ("metric", "stretch"),
    [*((name, "frame_conditions") for name in FRAMES), ("energy_mj", "energy_conditions")],
)
@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        ((look(2, 9), look(4, 13)), "other processes kept 2.0 of 1 processors busy"),
        ((look(2), look(4, throttle_events=4)), "the processor was throttled"),
        ((look(2, None), look(4, None)), "did not tell the CPU time of other processes"),
        ((), "load was not read before and after the calls"),
    ],
    ids=["crowded", "throttled", "untold", "unread"],
)
def test_frames_and_energy_are_judged_by_the_machine_while_they_were_measured(
    metric: str, stretch: str, looks: tuple[Conditions, ...], reason: str
) -> None:
    check = loose(metric).timed([changed(**{stretch: looks}), *[run()] * 4]).check()
    assert check.status == "inconclusive"
    assert reason in check.reason
    assert loose("latency_p50_ms").timed([changed(**{stretch: looks})] * 5).check().status == "pass"


def test_a_slow_start_on_a_crowded_machine_does_not_fail() -> None:
    slow = loose("first_inference_ms").weighed([weighed(load_ms=100)] * 5)
    assert slow.check().status == "fail"
    assert slow.timed([crowded()] * 5).check().status == "inconclusive"


def test_load_a_little_below_zero_is_an_error_of_ticks() -> None:
    assert loose("latency_p50_ms").timed([load(9, 8.9)] * 5).check().status == "pass"


def test_ratios_of_a_device_with_threads_are_wall_time_that_others_void() -> None:
    threads = DEVICE.model_copy(update={"threads": 4})
    found = measurement().model_copy(
        update={
            "threads": 4,
            "clock": "wall",
            "host": measurement().host.model_copy(update={"cores": 4}),
        }
    )
    case = replace(
        loose("latency_p50_ratio").limited("latency_p50_ratio", 0.8),
        measurement=found,
        device=threads,
    )
    assert case.check().measured == pytest.approx(4 / 5)
    assert case.check().status == "pass"
    assert case.timed([crowded()] * 5).check().status == "inconclusive"
    assert case.timed([load(None, None)] * 5).check().status == "inconclusive"
