"""Energy: counters laid out as machines have them, and moved by the calls themselves."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.machine.energy import energy_per_call_mj


class Counter:
    """A call that uses as much energy of a package each time."""

    def __init__(self, zone: Path, start_uj: int, step_uj: int, most_uj: int) -> None:
        self.zone, self.now, self.step, self.most = zone, start_uj, step_uj, most_uj
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text(f"{most_uj}\n")
        self.write()

    def __call__(self) -> None:
        self.now = (self.now + self.step) % self.most
        self.write()
        time.sleep(0.001)

    def write(self) -> None:
        (self.zone / "energy_uj").write_text(f"{self.now}\n")


def test_a_machine_without_counters_tells_no_energy(tmp_path: Path) -> None:
    assert energy_per_call_mj(lambda: None, 0.01, tmp_path) is None


def test_a_call_uses_what_the_package_counted(tmp_path: Path) -> None:
    call = Counter(tmp_path / "sys/class/powercap/intel-rapl:0", 500, 7000, 10**9)
    assert energy_per_call_mj(call, 0.1, tmp_path) == pytest.approx(7)


def test_a_counter_that_starts_anew_loses_nothing(tmp_path: Path) -> None:
    # It is looked at often enough that it cannot come round twice between two looks.
    call = Counter(tmp_path / "sys/class/powercap/intel-rapl:0", 999_000, 7000, 1_000_000)
    assert energy_per_call_mj(call, 0.3, tmp_path) == pytest.approx(7, rel=0.01)


def test_parts_of_a_package_and_counters_that_may_not_be_read_do_not_count(tmp_path: Path) -> None:
    powercap = tmp_path / "sys/class/powercap"
    call = Counter(powercap / "intel-rapl:0", 0, 7000, 10**9)
    (powercap / "intel-rapl:1").mkdir()
    (powercap / "intel-rapl:1" / "name").write_text("psys")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("5")
    assert energy_per_call_mj(call, 0.05, tmp_path) == pytest.approx(7)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert energy_per_call_mj(lambda: None, 0.01, tmp_path) is None


def removed_after_calls(path: Path, calls: int, call: Callable[[], object]) -> Callable[[], None]:
    """The call, which removes a counter's file once it was called as often."""
    count = 0

    def counted() -> None:
        nonlocal count
        call()
        count += 1
        if count == calls:
            path.unlink()

    return counted


@pytest.mark.parametrize("calls", [1, 10])
def test_a_package_that_stops_answering_tells_no_energy(calls: int, tmp_path: Path) -> None:
    call = Counter(tmp_path / "sys/class/powercap/intel-rapl:0", 500, 7000, 10**9)
    lost = tmp_path / "sys/class/powercap/intel-rapl:1"
    Counter(lost, 500, 7000, 10**9)
    failing = removed_after_calls(lost / "energy_uj", calls, call)
    assert energy_per_call_mj(failing, 0.3, tmp_path) is None


def test_packages_of_which_one_may_not_be_read_tell_no_energy(tmp_path: Path) -> None:
    call = Counter(tmp_path / "sys/class/powercap/intel-rapl:0", 500, 7000, 10**9)
    hidden = tmp_path / "sys/class/powercap/intel-rapl:1"
    Counter(hidden, 500, 7000, 10**9)
    (hidden / "energy_uj").unlink()
    assert energy_per_call_mj(call, 0.05, tmp_path) is None


def test_a_counter_that_starts_anew_at_an_unknown_limit_tells_no_energy(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    call = Counter(zone, 999_000, 7000, 1_000_000)
    (zone / "max_energy_range_uj").unlink()
    assert energy_per_call_mj(call, 0.1, tmp_path) is None


def input_rail(root: Path, chip: str = "1-0040") -> Path:
    """A rail that draws 10 W."""
    rail = root / f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon3"
    rail.mkdir(parents=True)
    (rail / "in1_input").write_text("5000\n")  # mV
    (rail / "curr1_input").write_text("2000\n")  # mA
    return rail


@pytest.mark.parametrize("name", ["in1_input", "curr1_input"])
@pytest.mark.parametrize("calls", [1, 10])
def test_a_rail_that_stops_answering_tells_no_energy(name: str, calls: int, tmp_path: Path) -> None:
    rail = input_rail(tmp_path)
    failing = removed_after_calls(rail / name, calls, lambda: time.sleep(0.01))
    assert energy_per_call_mj(failing, 0.2, tmp_path) is None


def test_a_board_whose_input_rail_is_silent_is_not_measured_by_another(tmp_path: Path) -> None:
    (input_rail(tmp_path) / "curr1_input").unlink()
    input_rail(tmp_path, "1-0041")
    assert energy_per_call_mj(lambda: time.sleep(0.01), 0.05, tmp_path) is None


def test_a_rail_of_a_jetson_is_power_over_time(tmp_path: Path) -> None:
    input_rail(tmp_path)
    found = energy_per_call_mj(lambda: time.sleep(0.01), 0.2, tmp_path)
    assert found is not None
    assert found >= 0.99 * 10 * 10  # 10 W for 10 ms is 100 mJ
