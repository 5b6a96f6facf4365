"""Time calls inside one process: warm up until stable, then in interleaved blocks.

Needs Python 3.8 and no library.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    Call = Callable[[], object]

WINDOW_S = 0.05
BLOCK_S = 0.01
SHORT_BLOCK_S = 0.003
LEAST_CALLS = 5
STABLE_WINDOWS = 3
STABLE_WITHIN = 0.03


@dataclass(frozen=True)
class Timed:
    """Wall and process CPU time of each timed call, nanoseconds."""

    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]
    blocks: tuple[int, ...]
    """The number of calls in each block; the n-th blocks of all engines are neighbours in time."""


def warm_up(call: Call, limit_s: float) -> bool:
    """Call until three windows agree on the median CPU time; False when `limit_s` ends first."""
    medians: list[float] = []
    end = time.perf_counter() + limit_s
    while time.perf_counter() < end:
        medians.append(statistics.median(_block(call, WINDOW_S).cpu_ns))
        last = medians[-STABLE_WINDOWS:]
        if len(last) == STABLE_WINDOWS and max(last) <= (1 + STABLE_WITHIN) * min(last):
            return True
    return False


def interleave(
    calls: Sequence[Call], seconds: float, least: int, order: random.Random, between: Call
) -> list[Timed]:
    """Time each call for at least `seconds` in all and `least` samples each.

    Blocks of consecutive calls, in random order each round, so that drift of the machine
    falls on all alike; the first call of a block, which refills the caches, is not kept.
    `between` is called before every round.
    """
    blocks: list[list[Timed]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or any(_count(kept) < least for kept in blocks):
        between()
        for index in order.sample(range(len(calls)), len(calls)):
            calls[index]()
            blocks[index].append(_block(calls[index], BLOCK_S))
    return [
        Timed(
            tuple(ns for block in kept for ns in block.wall_ns),
            tuple(ns for block in kept for ns in block.cpu_ns),
            tuple(len(block.cpu_ns) for block in kept),
        )
        for kept in blocks
    ]


def medians(
    calls: Mapping[str, Call], rounds: int, order: random.Random
) -> dict[str, list[tuple[int, int]]]:
    """The median wall and process CPU time of each call in each round, nanoseconds, by its name.

    For many calls that are only compared with one another: short blocks in random order, and a
    first round that is not kept in place of a warm-up.
    """
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in calls}
    for kept in range(-1, rounds):
        for name in order.sample(list(calls), len(calls)):
            calls[name]()
            block = _block(calls[name], SHORT_BLOCK_S, 1)
            if kept >= 0:
                both = (statistics.median(block.wall_ns), statistics.median(block.cpu_ns))
                found[name].append((round(both[0]), round(both[1])))
    return found


def paced(
    call: Call, interval_s: float, seconds: float, least: int, idle: Callable[[float], None]
) -> tuple[int, ...]:
    """Wall time of each call, one frame interval after the one before, nanoseconds.

    For at least `seconds` in all and `least` calls. Between two frames the processor idles and its
    caches cool, which calls back to back never show. A call that takes longer than the interval
    delays the next, which counts as its own time.
    Before every wait `idle` is told how many seconds are left until the next frame.
    """
    found: list[int] = []
    start = time.perf_counter_ns()
    while len(found) < least or time.perf_counter_ns() < start + seconds * 1e9:
        due = start + round(len(found) * interval_s * 1e9)
        idle((due - time.perf_counter_ns()) / 1e9)
        wait_s = (due - time.perf_counter_ns()) / 1e9
        if wait_s > 0:
            time.sleep(wait_s)
        began = min(time.perf_counter_ns(), due) if wait_s <= 0 else time.perf_counter_ns()
        call()
        found.append(time.perf_counter_ns() - began)
    return tuple(found)


def _count(kept: list[Timed]) -> int:
    return sum(len(block.wall_ns) for block in kept)


def _block(call: Call, seconds: float, least: int = LEAST_CALLS) -> Timed:
    """Consecutive calls for `seconds`, at least `least` of them."""
    wall: list[int] = []
    cpu: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall) < least:
        cpu_start, wall_start = time.process_time_ns(), time.perf_counter_ns()
        call()
        wall_end, cpu_end = time.perf_counter_ns(), time.process_time_ns()
        wall.append(wall_end - wall_start)
        cpu.append(cpu_end - cpu_start)
    return Timed(tuple(wall), tuple(cpu), (len(wall),))
