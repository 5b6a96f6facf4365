"""Resident memory of this process: now, and the peak since a reset.

Needs Python 3.8 and no library.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resident:
    """Resident memory, MiB, and how it was read."""

    now_mib: float
    peak_mib: float
    method: str


def reset_peak() -> None:
    """Start the peak anew where the system can; elsewhere the peak counts from process start."""
    if platform.system() == "Linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def resident() -> Resident:
    """VmRSS and VmHWM on Linux, else the peak of getrusage for both."""
    if platform.system() == "Linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        return Resident(int(kib["VmRSS"]) / 1024, int(kib["VmHWM"]) / 1024, "VmRSS, VmHWM")
    import resource  # absent on Windows

    unit = 1 << 20 if platform.system() == "Darwin" else 1 << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return Resident(peak, peak, "ru_maxrss")
