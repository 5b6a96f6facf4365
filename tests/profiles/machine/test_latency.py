"""Timing: what is called, how often, and what is kept."""

import random
import time
from itertools import pairwise

import pytest

from profiles.machine.latency import LEAST_CALLS, Timed, interleave, paced, warm_up


class Counted:
    """A call that knows how often it was made, and notes who was called in a log all share."""

    def __init__(self, name: str, log: list[str], wait_s: float = 0) -> None:
        self.name, self.log, self.wait_s = name, log, wait_s

    def __call__(self) -> None:
        self.log.append(self.name)
        time.sleep(self.wait_s)


class Slowing:
    """Each call burns a tenth more CPU time than the one before."""

    def __init__(self) -> None:
        self.cost_ns = 100_000.0

    def __call__(self) -> None:
        end = time.process_time_ns() + self.cost_ns
        while time.process_time_ns() < end:
            pass
        self.cost_ns *= 1.1


def nothing() -> None:
    pass


def work() -> int:
    return sum(range(5000))


def timed(seconds: float, least: int) -> tuple[list[Timed], list[str]]:
    log: list[str] = []
    calls = [Counted(name, log) for name in "abc"]
    return interleave(calls, seconds, least, random.Random(0), nothing), log


def test_a_steady_call_warms_up() -> None:
    assert warm_up(work, limit_s=120)


def test_a_call_that_keeps_slowing_does_not_settle() -> None:
    assert not warm_up(Slowing(), limit_s=0.4)


def test_without_time_nothing_settles() -> None:
    assert not warm_up(work, limit_s=0)


def test_every_engine_gets_as_many_blocks_and_the_least_number_of_samples() -> None:
    found, _ = timed(0, 40)
    assert len({len(times.blocks) for times in found}) == 1
    for times in found:
        assert len(times.wall_ns) == len(times.cpu_ns) == sum(times.blocks) >= 40
        assert min(times.blocks) >= LEAST_CALLS


def test_without_a_least_number_the_time_alone_decides() -> None:
    found, _ = timed(0.05, 1)
    assert all(len(times.blocks) >= 1 for times in found)
    assert timed(0, 0)[0] == [Timed((), (), ())] * 3


def test_the_first_call_of_each_block_is_made_and_not_kept() -> None:
    found, log = timed(0.05, 1)
    for name, times in zip("abc", found, strict=True):
        assert log.count(name) == len(times.wall_ns) + len(times.blocks)


def test_the_order_of_the_engines_changes_from_round_to_round() -> None:
    log: list[str] = []
    waits = [Counted(name, log, wait_s=0.002) for name in "abc"]
    interleave(waits, 0, 30, random.Random(0), nothing)
    follows = {pair for pair in pairwise(log) if pair[0] != pair[1]}
    assert len(follows) > 3  # a fixed order has three


def test_the_same_seed_gives_the_same_order() -> None:
    firsts = []
    for seed in (1, 1, 2, 3, 4, 5):
        log: list[str] = []
        interleave([Counted(name, log) for name in "abc"], 0, 1, random.Random(seed), nothing)
        firsts.append(list(dict.fromkeys(log)))
    assert firsts[0] == firsts[1]
    assert any(order != firsts[0] for order in firsts)


def test_waiting_is_wall_time_and_not_cpu_time() -> None:
    (found,) = interleave([lambda: time.sleep(0.005)], 0, 5, random.Random(0), nothing)
    assert sum(found.cpu_ns) < sum(found.wall_ns)


def test_times_are_those_of_the_call_that_took_them() -> None:
    calls = [lambda: sum(range(200_000)), work]
    heavy, light = interleave(calls, 0, 10, random.Random(0), nothing)
    assert sorted(heavy.cpu_ns)[5] > sorted(light.cpu_ns)[5]


def test_between_two_rounds_the_machine_is_looked_at() -> None:
    log: list[str] = []
    calls = [Counted(name, log) for name in "ab"]
    looks: list[int] = []
    found = interleave(calls, 0.05, 1, random.Random(0), lambda: looks.append(len(log)))
    assert len(looks) == len(found[0].blocks)
    assert looks[0] == 0


def test_no_frame_starts_before_its_time() -> None:
    starts: list[float] = []
    left: list[float] = []
    began = time.perf_counter()
    found = paced(lambda: starts.append(time.perf_counter()), 0.02, 0, 5, left.append)
    assert len(found) == len(left) == 5
    assert max(left) <= 0.02
    assert all(start - began >= 0.02 * frame for frame, start in enumerate(starts))


@pytest.mark.parametrize("interval_s", [0.02, 1e-12])
def test_frames_go_on_for_the_time_that_is_asked_for(interval_s: float) -> None:
    began = time.perf_counter()
    found = paced(lambda: time.sleep(0.01), interval_s, 0.2, 2, lambda _: None)
    assert 0.2 <= time.perf_counter() - began < 2
    assert 2 < len(found) <= 21


def test_a_frame_that_has_to_wait_for_the_one_before_is_late() -> None:
    waits = iter([0.5, 0, 0])
    found = paced(lambda: time.sleep(next(waits)), 0.1, 0, 3, lambda _: None)
    assert found[0] >= 0.5e9
    assert found[1] >= 0.4e9  # due at 0.1 s, answered at 0.5 s
    assert found[2] >= 0.3e9
