"""Resident memory: what is allocated shows, and the peak starts anew."""

import platform

import numpy as np
import pytest

from profiles.memory import reset_peak, resident

MIB = 1 << 20
linux = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux resets a peak")


def allocate(mib: int) -> None:
    """Touch every page of `mib` MiB, then give them back."""
    np.ones(mib * MIB, np.uint8).sum()


def test_the_peak_is_never_below_what_is_resident() -> None:
    found = resident()
    assert 0 < found.now_mib <= found.peak_mib
    assert found.method


@linux
def test_64_mib_show_in_the_peak_after_they_were_given_back() -> None:
    reset_peak()
    before = resident()
    allocate(64)
    after = resident()
    assert 60 < after.peak_mib - before.now_mib < 80
    assert after.now_mib - before.now_mib < 32


@linux
def test_a_reset_forgets_the_peak() -> None:
    allocate(64)
    before = resident()
    reset_peak()
    after = resident()
    assert before.peak_mib - after.peak_mib > 32
    assert after.peak_mib - after.now_mib < 16


def test_what_is_held_shows_in_what_is_resident() -> None:
    before = resident()
    held = np.ones(64 * MIB, np.uint8)
    assert resident().now_mib - before.now_mib > 60
    assert held[-1] == 1
