"""`slimgate devices`: what there is, where its numbers are from, and a profile of this machine."""

import tomllib
from pathlib import Path

import pytest
from user_project import Project

from pipeline.commands.devices import cpu_flags, listed, probed, shown
from profiles.device import DeviceProfile, device_names, load_device
from profiles.errors import ConfigError
from profiles.host import Host, this_host
from profiles.spec import read_spec

HOST = Host(
    machine="x86_64", model='A "box"', cpu="Some CPU @ 2 GHz", cores=4, system="Linux", versions={}
)


def test_every_shipped_device_is_listed_with_its_engine() -> None:
    rows = listed()
    assert tuple(name for name, _, _ in rows) == device_names()
    assert ("jetson-orin-nano", "trt fp16") in [row[:2] for row in rows]


@pytest.mark.parametrize("name", device_names())
def test_a_profile_is_shown_as_it_is_read_with_its_sources(name: str) -> None:
    found = DeviceProfile.model_validate(tomllib.loads(shown(name)))
    assert found == load_device(name, Path())
    assert "# " in shown(name)


def test_an_unknown_device_cannot_be_shown() -> None:
    with pytest.raises(ConfigError, match="none of: android-arm64"):
        shown("../host")


@pytest.mark.parametrize(("flags", "multiple"), [("sse avx2 avx512f", 16), ("avx2", 8), ("", 8)])
def test_a_probed_profile_counts_as_the_machine_it_was_made_on_and_no_other(
    flags: str, multiple: int, tmp_path: Path
) -> None:
    path = tmp_path / "device.toml"
    path.write_text(probed(HOST, flags))
    found = read_spec(path, DeviceProfile)
    assert found.channel_multiple == multiple
    assert found.identity.mismatch(HOST) == ""
    assert "cores" in found.identity.mismatch(HOST.model_copy(update={"cores": 8}))
    assert "model" in found.identity.mismatch(HOST.model_copy(update={"model": "another"}))


def test_this_machine_is_probed_into_a_profile_that_it_counts_as(project: Project) -> None:
    path = project.folder / "mine.toml"
    outcome = project.slimgate("devices", "probe", path)
    assert outcome.code == 0, outcome.err
    assert read_spec(path, DeviceProfile).identity.mismatch(this_host(())) == ""
    project.slimgate("devices", "probe", path).says(2, "mine.toml: not written (File exists)")
    assert isinstance(cpu_flags(), str)


def test_the_list_is_printed_where_nothing_else_is_asked_for(project: Project) -> None:
    outcome = project.slimgate("devices")
    assert outcome.code == 0
    assert "raspberry-pi-5" in outcome.out
    assert "compute_capability" in project.slimgate("devices", "show", "rtx-ada").out
