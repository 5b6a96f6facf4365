"""Energy counters of the machine, where it offers them. Needs Python 3.8 and no library."""

from __future__ import annotations

import math
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

    None where the machine has no counter that may be read, and where one stops answering before
    the end. What the machine draws when it idles is in it.
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
    return None if math.isnan(used_uj) else used_uj / max(count, 1) / 1e3


def _rapl_meter(root: Path) -> Callable[[], float] | None:
    """Microjoules since the last call, by the packages' counters, which start anew at a limit.

    NaN where a counter did not answer. None where there is no package, or one may not be read: the
    energy of the others alone would be too low.
    """
    # What is not a package is a part of one, or the whole machine, and would count twice.
    zones = [zone for zone in sorted(root.glob(RAPL)) if _text(zone / "name")[:7] == "package"]
    last = {zone: _number(zone / "energy_uj") for zone in zones}
    if not last or any(map(math.isnan, last.values())):
        return None

    def used() -> float:
        total = 0.0
        for zone in last:
            now = _number(zone / "energy_uj")
            step = now - last[zone]
            if step < 0:
                step += _number(zone / "max_energy_range_uj")
            last[zone] = now
            total += step
        return total

    return used


def _rail_meter(root: Path) -> Callable[[], float] | None:
    """Microjoules since the last call, from the power of the input rail now and then.

    NaN where the rail did not answer. None where there is no rail, or the first may not be read:
    another one feeds only a part of the board.
    """
    rails = sorted(root.glob(RAILS))
    return _integral(rails[0]) if rails and not math.isnan(_watts(rails[0])) else None


def _integral(rail: Path) -> Callable[[], float]:
    state = [time.perf_counter(), _watts(rail)]

    def used() -> float:
        now, watts = time.perf_counter(), _watts(rail)
        joules = (now - state[0]) * (watts + state[1]) / 2
        state[:] = [now, watts]
        return joules * 1e6

    return used


def _watts(rail: Path) -> float:
    """Millivolts times milliamperes; NaN where the rail does not answer."""
    return _number(rail / "in1_input") * _number(rail / "curr1_input") / 1e6


def _number(path: Path) -> float:
    """The whole number in a file; NaN where there is none to read."""
    try:
        return int(_text(path))
    except ValueError:
        return math.nan


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
