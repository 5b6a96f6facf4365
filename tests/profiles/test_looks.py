"""What is read from several looks at a machine."""

import math
from dataclasses import replace

import pytest
from known_measurement import look

from profiles.looks import others_cores, was_throttled


def test_other_processes_are_told_apart_from_this_one_by_their_cpu_time() -> None:
    assert others_cores((look(0), look(2))) == 0
    assert others_cores((look(0, 9), look(4, 15))) == pytest.approx(1.5)
    for at_s in (0, -1, math.nan, math.inf):
        assert others_cores((look(0), look(at_s))) is None


def test_a_clock_held_down_at_any_moment_is_noticed() -> None:
    assert not was_throttled((look(0), look(2)))
    assert was_throttled((look(0), look(1, throttle_events=4), look(2, throttle_events=4)))
    assert was_throttled((look(0), replace(look(1), throttled=True), look(2)))
