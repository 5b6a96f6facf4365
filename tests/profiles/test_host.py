"""The host: what it says of itself is there, and what is not installed is left out."""

import os
import platform
from importlib import metadata

from profiles.host import Host, this_host
from profiles.machine.facts import cpu_name, versions


def test_this_machine_is_described() -> None:
    found = this_host(("numpy",))
    assert found.machine == platform.machine()
    assert found.cores == os.cpu_count()
    assert found.system.startswith(platform.system())
    assert found.cpu == cpu_name() != ""


def test_versions_are_those_installed_and_slimgates_own_is_among_them() -> None:
    found = this_host(("numpy",)).versions
    assert found == {name: metadata.version(name) for name in ("slimgate", "numpy")}


def test_what_is_not_installed_is_left_out() -> None:
    assert versions(("numpy", "no-such-library")) == {"numpy": metadata.version("numpy")}
    assert versions(()) == {}


def test_a_host_is_read_back_as_it_was() -> None:
    found = this_host(("numpy",))
    assert Host.model_validate_json(found.model_dump_json()) == found
