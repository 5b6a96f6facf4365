"""Every way to spoil the evidence on every limit, and those that leave it good."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from known_measurement import (
    DEVICE,
    FRAMES,
    METRICS,
    RATIOS,
    TIMES,
    Case,
    calls,
    look,
    measurement,
    run,
    weighed,
)

from profiles.device import Identity
from profiles.limits import LIMITS
from profiles.machine.conditions import Conditions
from profiles.measurement import LatencyRun, StartRun
from profiles.requirements import MIN_PROCESSES, MIN_STARTS

WHOLE = ("macs", "parameters")
"""Limits that are whole numbers."""


def bound(metric: str) -> float:
    """The limit up to which the evidence passes."""
    found = LIMITS[metric].estimate(measurement())
    return found.lower if LIMITS[metric].is_minimum else found.upper


def at_limit(case: Case, metric: str) -> Case:
    return case.limited(metric, bound(metric))


def over(case: Case, metric: str) -> Case:
    found = LIMITS[metric].estimate(measurement())
    if LIMITS[metric].is_minimum:
        return case.limited(metric, 1.05 * found.upper)
    return case.limited(metric, found.lower - 1 if metric in WHOLE else 0.9 * found.lower)


def not_a_number(case: Case, metric: str) -> Case:
    return case.shipped(FIELDS[metric], math.nan)


def infinite(case: Case, metric: str) -> Case:
    return case.shipped(FIELDS[metric], math.inf)


FIELDS = {
    "parity_error": "parity_error",
    "macs": "macs",
    "macs_ratio": "macs",
    "parameters": "parameters",
    "parameters_ratio": "parameters",
    "engine_size_mib": "size_bytes",
    "engine_size_ratio": "size_bytes",
}
Spoil = Callable[[Case, str], Case]


def of_device(**fields: object) -> Spoil:
    device = DEVICE.model_copy(update=fields)
    return lambda case, _: replace(case, device=device)


def meanwhile(stretch: str, looks: tuple[Conditions, ...]) -> Spoil:
    """One process whose machine was like this during the calls of that stretch alone."""
    return lambda case, _: case.timed([changed(**{stretch: looks}), *[run()] * 4])


BAD_STRETCHES: Mapping[str, tuple[Conditions, ...]] = {
    "others meanwhile": (look(2, 9.0), look(4, 9.4)),
    "throttled meanwhile": (look(2), look(4, throttle_events=4)),
    "load untold meanwhile": (look(2), look(4, None)),
    "clock stood still meanwhile": (look(2), look(2)),
    "not looked at meanwhile": (),
}
SPOILED: Mapping[str, Mapping[str, Spoil]] = {
    "any": {
        "over": over,
        "stale": lambda case, _: replace(case, sha256="6" * 64),
        "another device": lambda case, _: replace(case, device_name="other"),
        "another machine": of_device(identity=Identity(machine="aarch64")),
        "another board": of_device(identity=Identity(model="Raspberry Pi 5")),
        "another processor": of_device(identity=Identity(cpu="Cortex-A76")),
        "other cores": of_device(identity=Identity(cores=4)),
        "other threads": of_device(threads=4),
        "other batch": of_device(batch=4),
        "another clock": of_device(compute_capability="8.7"),
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
        "other samples": lambda case, _: case.shipped("samples_sha256", "8" * 64),
    },
    "timed": {
        "missing": lambda case, _: case.timed([]),
        "few processes": lambda case, _: case.timed([run()] * (MIN_PROCESSES - 1)),
        "unsettled": lambda case, _: case.timed([changed(warm=False), *[run()] * 4]),
        "noisy control": lambda case, _: case.timed([run(control_ms=4.05)] * 5),
        "control without time": lambda case, _: case.timed([run(control_ms=0)] * 5),
        "no time passed": lambda case, _: case.timed([run(shipped_ms=0)] * 5),
        "a time lost": lambda case, _: case.timed([cut(), *[run()] * 4]),
        "a block lost": lambda case, _: case.timed([short((60,)), *[run()] * 4]),
        "throttled": lambda case, _: case.timed([throttled(), *[run()] * 4]),
        "no conditions": lambda case, _: case.timed([changed(conditions=()), *[run()] * 4]),
        "throttling untold at the end": lambda case, _: case.timed([half_told(), *[run()] * 4]),
    },
    "by wall": {
        "other processes": lambda case, _: case.timed([crowded(), *[run()] * 4]),
        "load not read": lambda case, _: case.timed([changed(conditions=()), *[run()] * 4]),
        "load never told": lambda case, _: case.timed([load(None, None)] * 5),
        "load untold at the end": lambda case, _: case.timed([load(9, None), *[run()] * 4]),
        "load not counted": lambda case, _: case.timed([load(9, 7), *[run()] * 4]),
        "load NaN": lambda case, _: case.timed([load(9, math.nan), *[run()] * 4]),
        "load infinitely low": lambda case, _: case.timed([load(9, -math.inf), *[run()] * 4]),
        "clock stood still": lambda case, _: case.timed([stopped(0), *[run()] * 4]),
        "clock ran back": lambda case, _: case.timed([stopped(-1), *[run()] * 4]),
        "clock infinite": lambda case, _: case.timed([stopped(math.inf), *[run()] * 4]),
    },
    "counted energy": {
        "not counted": lambda case, _: case.timed([changed(energy_mj=None), *[run()] * 4]),
        "NaN": lambda case, _: case.timed([changed(energy_mj=math.nan), *[run()] * 4]),
        "below zero": lambda case, _: case.timed([changed(energy_mj=-1.0)] * 5),
        "nothing used": lambda case, _: case.timed([changed(energy_mj=0.0), *[run()] * 4]),
        **{name: meanwhile("energy_conditions", looks) for name, looks in BAD_STRETCHES.items()},
    },
    "in frames": {
        "no frames": lambda case, _: case.timed([changed(frames_ns=()), *[run()] * 4]),
        "few frames": lambda case, _: case.timed([changed(frames_ns=(5,) * 11)] * 5),
        "frames without time": lambda case, _: case.timed([changed(frames_ns=(0,) * 60)] * 5),
        **{name: meanwhile("frame_conditions", looks) for name, looks in BAD_STRETCHES.items()},
    },
    "started": {
        "missing": lambda case, _: case.weighed([]),
        "few starts": lambda case, _: case.weighed([weighed()] * (MIN_PROCESSES - 1)),
        "NaN": lambda case, _: case.weighed([weighed(load_ms=math.nan), *[weighed()] * 4]),
        "no time passed": lambda case, _: case.weighed([weighed(load_ms=0), *[weighed()] * 4]),
        "no timed process": lambda case, _: case.timed([]),
        "throttled": lambda case, _: case.timed([throttled(), *[run()] * 4]),
    },
    "steady": {
        "NaN": lambda case, _: case.weighed([steady(math.nan), *[weighed()] * 4]),
        "infinite": lambda case, _: case.weighed([steady(math.inf), *[weighed()] * 4]),
        "missing": lambda case, _: case.weighed([]),
        "few starts": lambda case, _: case.weighed([weighed()] * (MIN_PROCESSES - 1)),
        "below its baseline": lambda case, _: case.weighed([steady(39), *[weighed()] * 4]),
    },
    "weighed": {
        "NaN": lambda case, _: case.weighed([weighed(math.nan), weighed(), weighed()]),
        "infinite": lambda case, _: case.weighed([weighed(math.inf), weighed(), weighed()]),
        "missing": lambda case, _: case.weighed([]),
        "few runs": lambda case, _: case.weighed([weighed()] * (MIN_STARTS - 1)),
        "below its baseline": lambda case, _: case.weighed([weighed(39), weighed(), weighed()]),
        "no baseline": lambda case, _: case.weighed([weighed(10, 0), weighed(), weighed()]),
    },
}
GOOD: Mapping[str, Spoil] = {"ok": lambda case, _: case, "at limit": at_limit}


def short(blocks: Sequence[int]) -> LatencyRun:
    """A process whose shipped engine was called in these blocks."""
    return run().model_copy(update={"shipped": calls(4, 2, blocks)})


def changed(**fields: object) -> LatencyRun:
    return run().model_copy(update=fields)


def steady(steady_mib: float) -> StartRun:
    return weighed().model_copy(update={"steady_mib": steady_mib})


def throttled() -> LatencyRun:
    return changed(conditions=(look(0), look(1, throttle_events=4), look(2, throttle_events=4)))


def crowded() -> LatencyRun:
    """Others used 0.2 of the one processor that there is."""
    return changed(conditions=(look(0, 9.0), look(2, 9.4)))


def load(first_cpu_s: float | None, last_cpu_s: float | None) -> LatencyRun:
    """A process with the CPU time of others before it and after it."""
    return changed(conditions=(look(0, first_cpu_s), look(2, last_cpu_s)))


def stopped(at_s: float) -> LatencyRun:
    """A process whose clock began at 0 and ended here."""
    return changed(conditions=(look(0), look(at_s)))


def half_told() -> LatencyRun:
    """A process whose machine at last no longer told whether it was throttled."""
    return changed(conditions=(look(0), replace(look(2), throttled=None)))


def cut() -> LatencyRun:
    """A process whose last CPU time got lost."""
    times = run().shipped
    return run().model_copy(
        update={"shipped": times.model_copy(update={"cpu_ns": times.cpu_ns[:-1]})}
    )


def kinds_of(metric: str) -> tuple[str, ...]:
    if metric in FIELDS:
        return ("counted",)
    if metric in TIMES:
        crowd = () if metric in RATIOS else ("by wall",)
        more = ("in frames",) if metric in FRAMES else ()
        return ("timed", *crowd, *more, *(("counted energy",) if metric == "energy_mj" else ()))
    if metric == "first_inference_ms":
        return ("started", "by wall")
    kinds = {"top1_drop": "scored", "top1_min": "scored", "steady_memory_mib": "steady"}
    return (kinds.get(metric, "weighed"),)


BAD = [
    (metric, name, spoil)
    for metric in METRICS
    for kind in ("any", *kinds_of(metric))
    for name, spoil in SPOILED[kind].items()
]
ALL = [(metric, name, spoil) for metric in METRICS for name, spoil in GOOD.items()] + BAD
