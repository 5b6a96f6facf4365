"""Energy counters of the machine, where it offers them. Needs Python 3.8 and no library."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RAPL = "sys/class/powercap/intel-rapl:?"
RAILS = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
"""Of a Jetson: the first channel is the whole board's input."""
SLOWEST_LOOK_S = 0.02


def energy_per_call_mj(
    call: Callable[[], object], seconds: float, root: Path = Path("/")
) -> float | None:
    """Energy of one call, of the whole package or board, mJ, back to back for `seconds`.

    None where the machine has no counter that may be read. What the machine draws when it idles
    is in it.
    """
    meter = _rapl_meter(root) or _rail_meter(root)
    if meter is None:
        return None
    count = 0
    meter()
    end = time.perf_counter() + seconds
    used_uj = 0.0
    look = time.perf_counter()
    while time.perf_counter() < end:
        call()
        count += 1
        if time.perf_counter() >= look + SLOWEST_LOOK_S:
            used_uj += meter()
            look = time.perf_counter()
    used_uj += meter()
    return used_uj / max(count, 1) / 1e3


def _rapl_meter(root: Path) -> Callable[[], float] | None:
    """Microjoules since the last call, by the packages' counters, which start anew at a limit."""
    # What is not a package is a part of one, or the whole machine, and would count twice.
    zones = [zone for zone in sorted(root.glob(RAPL)) if _text(zone / "name")[:7] == "package"]
    last = {zone: found for zone in zones if (found := _number(zone / "energy_uj")) is not None}
    if not last:
        return None

    def used() -> float:
        total = 0.0
        for zone in last:
            now = _number(zone / "energy_uj") or 0
            step = now - last[zone]
            if step < 0:
                step += _number(zone / "max_energy_range_uj") or 0
            last[zone] = now
            total += step
        return total

    return used


def _rail_meter(root: Path) -> Callable[[], float] | None:
    """Microjoules since the last call, from the power of the input rail now and then."""
    for rail in sorted(root.glob(RAILS)):
        if _number(rail / "in1_input") is not None and _number(rail / "curr1_input") is not None:
            return _integral(rail)
    return None


def _integral(rail: Path) -> Callable[[], float]:
    state = [time.perf_counter(), _watts(rail)]

    def used() -> float:
        now, watts = time.perf_counter(), _watts(rail)
        joules = (now - state[0]) * (watts + state[1]) / 2
        state[:] = [now, watts]
        return joules * 1e6

    return used


def _watts(rail: Path) -> float:
    """Millivolts times milliamperes."""
    return (_number(rail / "in1_input") or 0) * (_number(rail / "curr1_input") or 0) / 1e6


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
