"""Devices and budgets: the shipped ones load, and a limit that allows anything is none."""

from pathlib import Path

import pytest

from exporters.exporter import resolved_device, runtime
from profiles.budget import Budget
from profiles.device import DeviceProfile, Identity, device_names, load_device
from profiles.errors import ConfigError
from profiles.host import Host, HostGpu
from profiles.spec import read_spec


def budget(folder: Path, text: str) -> Budget:
    path = folder / "budget.toml"
    path.write_text(text)
    return read_spec(path, Budget)


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_loads_and_names_a_runtime(name: str) -> None:
    device = load_device(name, Path("nowhere"))
    assert device.description
    assert runtime(device.engine, device.options()).threads == device.threads


def test_the_shipped_devices_are_the_documented_ones() -> None:
    assert device_names() == (
        "android-arm64",
        "host",
        "jetson-agx-orin",
        "jetson-orin-nano",
        "jetson-orin-nx",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "rtx-ada",
        "x86-64",
    )


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_but_the_host_says_what_counts_as_it_and_has_a_budget(
    name: str,
) -> None:
    device = load_device(name, Path())
    assert (device.identity == Identity()) == (name == "host")
    assert device.budget is not None
    assert device.clock == ("cpu" if name == "host" else "wall")


HOST = Host(
    machine="aarch64",
    model="Raspberry Pi 5 Model B Rev 1.0",
    cpu="Cortex-A76",
    cores=4,
    system="Linux",
    versions={},
)


@pytest.mark.parametrize(
    ("identity", "wrong"),
    [
        (Identity(), ""),
        (Identity(machine="aarch64", model="Raspberry Pi 5", cpu="A76", cores=4), ""),
        (Identity(machine="x86_64"), "it is aarch64, not x86_64"),
        (Identity(model="Pi 4"), "its model is Raspberry Pi 5 Model B Rev 1.0, not Pi 4"),
        (Identity(cpu="A72"), "its processor is Cortex-A76, not A72"),
        (Identity(cores=8), "it has 4 cores, not 8"),
    ],
)
def test_a_machine_is_the_device_when_all_it_reports_is_as_the_profile_says(
    identity: Identity, wrong: str
) -> None:
    assert identity.mismatch(HOST) == wrong


def test_a_gpu_is_the_device_s_by_its_compute_capability() -> None:
    orin = DeviceProfile(description="a GPU", compute_capability="8.7")
    other, same = (HostGpu(ordinal=0, name="one", compute_capability=c) for c in ("9.0", "8.7"))
    assert orin.mismatch(HOST) == "it has no GPU of compute capability 8.7"
    assert "8.7" in orin.mismatch(HOST.model_copy(update={"gpus": (other,)}))
    assert orin.mismatch(HOST.model_copy(update={"gpus": (other, same)})) == ""


@pytest.mark.parametrize("engine", ["trt", "ort_cuda"])
def test_an_engine_for_gpus_needs_one_whatever_the_profile_leaves_out(engine: str) -> None:
    device = resolved_device(DeviceProfile(description="a GPU", engine=engine))
    assert device.on_gpu
    assert device.clock == "wall"
    assert device.mismatch(HOST) == "it has no NVIDIA GPU"
    gpu = HostGpu(ordinal=0, name="one", compute_capability="8.7")
    assert device.mismatch(HOST.model_copy(update={"gpus": (gpu,)})) == ""


def test_a_profile_of_a_runtime_that_is_not_here_is_read_as_it_stands() -> None:
    device = DeviceProfile.model_validate({"description": "old", "engine": "no such runtime"})
    assert resolved_device(device) == device
    assert not device.on_gpu


def test_what_a_machine_tells_is_short_and_printable() -> None:
    told = HOST.model_dump() | {"model": "\x1b[2K a\nboard" + "x" * 10**6}
    found = Host.model_validate(told).model
    assert found.startswith("?[2K a?boardxxx")
    assert len(found) == 500


def test_the_raspberry_pi_is_told_from_another_by_its_model() -> None:
    assert load_device("raspberry-pi-5", Path()).identity.mismatch(HOST) == ""
    assert "Raspberry Pi 4" in load_device("raspberry-pi-4", Path()).identity.mismatch(HOST)


def test_a_device_of_ones_own_is_found_by_its_path_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "board.toml"
    path.write_text('description = "mine"\nthreads = 2')
    want = DeviceProfile(description="mine", threads=2)
    assert load_device("own/board.toml", tmp_path) == want
    assert load_device(str(path), Path("elsewhere")) == want


@pytest.mark.parametrize("name", ["hosts", "", "../host", "host ", "devices/host"])
def test_an_unknown_device_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="raspberry-pi-5") as refused:
        load_device(name, Path())
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", 'description = "x"\nthreads = 0', 'description = "x"\nthread = 1', "threads = 1"]
)
def test_a_device_with_a_wrong_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_device("bad.toml", tmp_path)


def test_a_budget_holds_the_limits_that_are_set(tmp_path: Path) -> None:
    found = budget(tmp_path, "top1_drop = 0\nmacs = 5\nlatency_p50_ratio = 1.5")
    assert found.limits() == {"top1_drop": 0, "macs": 5, "latency_p50_ratio": 1.5}


def test_a_budget_without_any_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one of: top1_drop, top1_min, parity_error"):
        budget(tmp_path, "")


@pytest.mark.parametrize("name", Budget.model_fields)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", '"1"', "true", "[1]"])
def test_no_limit_may_be_negative_or_no_number(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        budget(tmp_path, f"{name} = {value}")


@pytest.mark.parametrize("name", [name for name in Budget.model_fields if name != "top1_drop"])
def test_no_cost_may_be_zero(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*greater than 0"):
        budget(tmp_path, f"{name} = 0")


@pytest.mark.parametrize("name", ["macs_ratio", "top1_drop"])
@pytest.mark.parametrize("value", ["1", "1.0", "1.5", "70"])
def test_a_fraction_is_below_one(tmp_path: Path, name: str, value: str) -> None:
    says = "did you mean 0.7" if (name, value) == ("macs_ratio", "70") else "less than 1"
    with pytest.raises(ConfigError, match=f"{name}: .*{says}"):
        budget(tmp_path, f"{name} = {value}")


@pytest.mark.parametrize("name", ["macs", "parameters"])
def test_a_count_is_whole(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        budget(tmp_path, f"{name} = 1.5")


def test_a_limit_in_another_unit_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'latency_p50_ms'"):
        budget(tmp_path, "latency_p50_us = 5")
