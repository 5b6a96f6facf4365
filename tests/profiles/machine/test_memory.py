"""Resident memory of a fresh process: what is allocated shows, and the peak starts anew."""

import json
import platform
import subprocess
import sys

import pytest

linux = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux resets a peak")

START = """
import json
import numpy as np
from profiles.machine.memory import reset_peak, resident
MIB = 1 << 20
"""


def figures(code: str) -> list[float]:
    """What `code` leaves in `found`; this process's own memory is used and reused by others."""
    command = [sys.executable, "-P", "-c", f"{START}{code}\nprint(json.dumps(found))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: list[float] = json.loads(done.stdout)
    return found


def test_the_peak_is_never_below_what_is_resident() -> None:
    now, peak = figures("r = resident(); found = [r.now_mib, r.peak_mib]")
    assert 0 < now <= peak


@linux
def test_64_mib_show_in_the_peak_after_they_were_given_back() -> None:
    before, now, peak = figures(
        "reset_peak(); b = resident(); np.ones(64 * MIB, np.uint8).sum(); a = resident();"
        "found = [b.now_mib, a.now_mib, a.peak_mib]"
    )
    assert 60 < peak - before < 80
    assert now - before < 32


@linux
def test_a_reset_forgets_the_peak() -> None:
    before, now, peak = figures(
        "np.ones(64 * MIB, np.uint8).sum(); b = resident(); reset_peak(); a = resident();"
        "found = [b.peak_mib, a.now_mib, a.peak_mib]"
    )
    assert before - peak > 32
    assert peak - now < 16


def test_what_is_held_shows_in_what_is_resident() -> None:
    before, after = figures(
        "b = resident(); held = np.ones(64 * MIB, np.uint8); a = resident();"
        "found = [b.now_mib, a.peak_mib]"
    )
    assert after - before > 60
