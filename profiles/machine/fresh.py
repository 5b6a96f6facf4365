"""What is measured inside one fresh process: times of engines side by side, or the start of one.

Needs Python 3.8 and no library, so that any board can run it.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from profiles.machine.conditions import Conditions, conditions
from profiles.machine.energy import energy_per_call_mj
from profiles.machine.latency import interleave, medians, paced, warm_up
from profiles.machine.memory import reset_peak, resident

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from profiles.machine.latency import Call

    Load = Callable[[], Call]

WARM_UP_LIMIT_S = 20.0
LOOK_S = 0.5
"""How often the machine's conditions are read while it measures."""
LOOK_MAY_TAKE_S = 0.01
"""On a slow board; a frame that waited for it would count as late."""
FRAMES_S = 1.0
"""The shortest stretch of frames: systems count the time of others in hundredths of a second."""
ENERGY_S = 1.0
CALLS_AFTER_START = 4


def time_engines(
    loads: Mapping[str, Load],
    seconds: float,
    least_samples: int,
    seed: int,
    frame_interval_ms: float | None,
) -> dict[str, object]:
    """Samples of each engine by its name, and the conditions they were taken under.

    The one named "shipped" is also called at the pace `frame_interval_ms`, `least_samples` times,
    and for its energy, where the machine counts that.
    """
    looks = [conditions()]
    calls = {name: load() for name, load in loads.items()}
    warm = [warm_up(call, WARM_UP_LIMIT_S) for call in calls.values()]
    looks.append(conditions())

    def look() -> None:
        if time.perf_counter() > looks[-1].at_s + LOOK_S:
            looks.append(conditions())

    order = random.Random(seed)
    timed = interleave(list(calls.values()), seconds, least_samples, order, look)
    looks.append(conditions())
    frames: tuple[int, ...] = ()
    frame_looks = [looks[-1]]
    if frame_interval_ms is not None:
        interval_s = frame_interval_ms / 1e3
        looking = _looking(frame_looks)
        frames = paced(calls["shipped"], interval_s, FRAMES_S, least_samples, looking)
        frame_looks.append(conditions())
    energy_mj = energy_per_call_mj(calls["shipped"], ENERGY_S) if "shipped" in calls else None
    return {
        **{name: asdict(timed[place]) for place, name in enumerate(calls)},
        "frames_ns": frames,
        "energy_mj": energy_mj,
        "warm": all(warm),
        "conditions": _told(looks),
        "frame_conditions": _told(frame_looks) if frames else [],
        "energy_conditions": _told([frame_looks[-1], conditions()]),
    }


def compare_engines(loads: Mapping[str, Load], rounds: int, seed: int) -> dict[str, object]:
    """The median wall and CPU time of each engine in each round, nanoseconds, by its name."""
    calls = {name: load() for name, load in loads.items()}
    found = medians(calls, rounds, random.Random(seed))
    return {
        "wall_ns": {name: [wall for wall, _ in times] for name, times in found.items()},
        "cpu_ns": {name: [cpu for _, cpu in times] for name, times in found.items()},
    }


def _looking(looks: list[Conditions]) -> Callable[[float], None]:
    """Adds a look where one is due and ends long before the seconds that are left."""

    def idle(left_s: float) -> None:
        if left_s > LOOK_MAY_TAKE_S and time.perf_counter() > looks[-1].at_s + LOOK_S:
            looks.append(conditions())

    return idle


def _told(looks: list[Conditions]) -> list[dict[str, object]]:
    return [asdict(look) for look in looks]


def start_engine(load: Load) -> dict[str, object]:
    """Load and first-call time, ms, and resident memory before, at its peak and after, MiB.

    The runtime itself has to be imported already: its own memory and time are no engine's.
    """
    reset_peak()
    baseline = resident()
    began = time.perf_counter_ns()
    call = load()
    loaded = time.perf_counter_ns()
    call()
    first = time.perf_counter_ns()
    for _ in range(CALLS_AFTER_START):
        call()
    after = resident()
    return {
        "load_ms": (loaded - began) / 1e6,
        "first_ms": (first - loaded) / 1e6,
        "baseline_mib": baseline.now_mib,
        "peak_mib": after.peak_mib,
        "steady_mib": after.now_mib,
        "method": after.method,
    }
