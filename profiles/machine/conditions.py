"""Conditions: what a machine tells of itself while it measures. Needs Python 3.8 and no library."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CPUS = "sys/devices/system/cpu/cpu[0-9]*"
THERMAL = "sys/class/thermal"
PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
PI_NOW = 0xF
"""Under-voltage, capped, throttled and too warm, now; the bits above tell of the past."""


@dataclass(frozen=True)
class Conditions:
    """One look at the machine; None is what it does not tell."""

    # Where an answer is read back, a key too many is a fault of it.
    __pydantic_config__ = {"extra": "forbid"}

    at_s: float
    """On the clock of `time.perf_counter`."""
    load_1min: float | None
    others_cpu_s: float | None
    """CPU seconds that other processes have used since the machine started."""
    mhz: float | None
    """The mean clock of the processors."""
    governor: str | None
    temperature_c: float | None
    """The hottest zone."""
    throttled: bool | None
    """Whether the clock is held down now: a cooling device at work, or a Raspberry Pi's flags."""
    throttle_events: int | None
    """How often a processor was throttled since the machine started, as Intel's count."""


def conditions(root: Path = Path("/")) -> Conditions:
    """The conditions now, read below `root`."""
    clocks = _numbers(root.glob(f"{CPUS}/cpufreq/scaling_cur_freq"))
    heat = _numbers(root.glob(f"{THERMAL}/thermal_zone*/temp"))
    events = _numbers(root.glob(f"{CPUS}/thermal_throttle/core_throttle_count"))
    return Conditions(
        at_s=time.perf_counter(),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        others_cpu_s=_others_cpu_s(root),
        mhz=sum(clocks) / len(clocks) / 1e3 if clocks else None,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        temperature_c=max(heat) / 1e3 if heat else None,
        throttled=_throttled(root),
        throttle_events=sum(events) if events else None,
    )


def _others_cpu_s(root: Path) -> float | None:
    words = (_text(root / "proc/stat") or "").split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, _, _, irq, soft_irq, steal = map(int, words[1:9])
    busy = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
    # Sandboxes that keep no count write zeros.
    return busy - time.process_time() if busy else None


def _throttled(root: Path) -> bool | None:
    found = []
    for device in root.glob(f"{THERMAL}/cooling_device*"):
        if "cpufreq" in (_text(device / "type") or ""):
            found += [state > 0 for state in _numbers([device / "cur_state"])]
    bits = _text(root / PI_THROTTLED)
    if bits is not None:
        found.append(bool(int(bits, 16) & PI_NOW))
    return any(found) if found else None


def _numbers(paths: Iterable[Path]) -> list[int]:
    texts = [_text(path) for path in paths]
    return [int(text) for text in texts if text is not None and text.lstrip("-").isdigit()]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
