"""Conditions: what each kind of machine tells of itself, from files laid out as it has them."""

import os
import time
from pathlib import Path

import pytest

from profiles.machine.conditions import conditions

TICKS = os.sysconf("SC_CLK_TCK")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_a_machine_that_tells_nothing_is_not_made_to(tmp_path: Path) -> None:
    found = conditions(tmp_path)
    assert (found.others_cpu_s, found.mhz, found.governor) == (None, None, None)
    assert (found.temperature_c, found.throttled, found.throttle_events) == (None, None, None)
    assert found.at_s > 0


def test_the_processors_of_a_pc_tell_clock_governor_heat_and_throttling(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu"
    write(
        tmp_path,
        {
            f"{cpu}0/cpufreq/scaling_cur_freq": "2000000",
            f"{cpu}1/cpufreq/scaling_cur_freq": "3000000",
            f"{cpu}0/cpufreq/scaling_governor": "performance",
            f"{cpu}0/thermal_throttle/core_throttle_count": "3",
            f"{cpu}1/thermal_throttle/core_throttle_count": "4",
            "sys/class/thermal/thermal_zone0/temp": "41000",
            "sys/class/thermal/thermal_zone1/temp": "62500",
        },
    )
    found = conditions(tmp_path)
    assert (found.mhz, found.governor) == (2500, "performance")
    assert (found.temperature_c, found.throttle_events) == (62.5, 7)
    assert found.throttled is None


@pytest.mark.parametrize(
    ("bits", "held"), [("0", False), ("50000", False), ("1", True), ("50005", True), ("8", True)]
)
def test_a_raspberry_pi_is_throttled_by_its_flags_of_now_and_not_of_the_past(
    bits: str, held: bool, tmp_path: Path
) -> None:
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": bits})
    assert conditions(tmp_path).throttled is held


@pytest.mark.parametrize(("state", "held"), [("0", False), ("2", True)])
def test_a_cooling_device_that_holds_the_clock_down_is_noticed(
    state: str, held: bool, tmp_path: Path
) -> None:
    thermal = "sys/class/thermal/cooling_device"
    write(
        tmp_path,
        {
            f"{thermal}0/type": "pwm-fan",
            f"{thermal}0/cur_state": "4",
            f"{thermal}1/type": "cpufreq-cpu0",
            f"{thermal}1/cur_state": state,
        },
    )
    assert conditions(tmp_path).throttled is held


def test_what_others_used_is_all_that_was_busy_but_this_process(tmp_path: Path) -> None:
    busy_s = 500
    fields = [busy_s * TICKS, 0, 0, 9_999_999, 77, 0, 0, 0, 0, 0]  # idle and waiting do not count
    write(tmp_path, {"proc/stat": "cpu  " + " ".join(map(str, fields)) + "\ncpu0 1 2 3"})
    before = time.process_time()
    found = conditions(tmp_path).others_cpu_s
    assert found is not None
    assert busy_s - time.process_time() <= found <= busy_s - before


def test_a_sandbox_that_writes_zeros_does_not_tell_what_others_used(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0"})
    assert conditions(tmp_path).others_cpu_s is None


@pytest.mark.parametrize("text", ["", "cpu", "intr 1 2 3 4 5 6 7 8 9", "\xff"])
def test_files_that_make_no_sense_tell_nothing(text: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/stat": text, "sys/class/thermal/thermal_zone0/temp": text or "warm"},
    )
    found = conditions(tmp_path)
    assert (found.others_cpu_s, found.temperature_c) == (None, None)
