"""What this machine tells of itself. Needs Python 3.8 and no library."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from profiles.machine.gpu import gpus


def machine_facts(libraries: tuple[str, ...]) -> dict[str, object]:
    """The fields of `profiles.host.Host`, with the versions of `libraries`."""
    return {
        "machine": platform.machine(),
        "model": model_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "gpus": [asdict(gpu) for gpu in gpus()],
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions(libraries),
    }


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def model_name(root: Path = Path("/")) -> str:
    """The board's model below `root`: of the device tree on ARM, of the firmware on PCs."""
    for name in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        try:
            return (root / name).read_text(encoding="utf-8").strip("\0\n ")
        except (OSError, ValueError):
            continue
    return ""


def versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each library; the absent ones are left out."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def available_memory() -> int | None:
    """Bytes a process can still get without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
