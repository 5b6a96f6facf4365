"""What is handed to others: the lock, README's commands, the image, and the wheel without torch."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from user_project import Project

from profiles.errors import CONVERTERS, no_wheel

ROOT = Path(__file__).parents[1]


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith(("#", " "))]
    assert len(packages) > 50
    assert all(re.match(r"^[\w.\-]+==\S+ .*\\$", line) for line in packages)
    text = "\n".join(lines)
    assert text.count("--hash=sha256:") >= len(packages)
    assert "://" not in text


def test_readmes_first_two_code_blocks_are_one_line_each() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert blocks[0].strip().endswith("slimgate demo")
    assert "pytest" in blocks[1]


def test_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert all((ROOT / link).exists() for link in links)


def test_the_image_passes_the_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [linter, ROOT / "docker" / "cpu.Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_copies_only_what_is_there() -> None:
    lines = (ROOT / "docker" / "cpu.Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert copied
    assert all((ROOT / source).exists() for sources in copied for source in sources)


def test_tensorrt_is_an_extra_that_the_lock_does_not_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(line.startswith("tensorrt") for line in project["optional-dependencies"]["tensorrt"])
    assert "tensorrt==" not in (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "pipeline",
        "exporters",
        "profiles",
    }
    for data in (
        "profiles/devices/host.toml",
        "pipeline/commands/example/template.toml",
        "pipeline/report/html.j2",
        "pipeline/report/html.css",
    ):
        assert data in names


def test_the_installed_wheel_judges_a_bundle_without_torch(
    wheel: Path, complete: Project, tmp_path: Path
) -> None:
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [str(part) for part in (uv, "pip", "install", "-q", "--python", python, wheel)]
    constraints = tmp_path / "constraints.txt"
    lock = (ROOT / "requirements.lock").read_text()
    constraints.write_text("\n".join(re.findall(r"^[\w.\-]+==[^\\\n]+", lock, re.M)))
    subprocess.run([*install, "--constraints", constraints], check=True)
    assert not list((tmp_path / "venv").glob("lib*/*/site-packages/torch"))
    shutil.copytree(complete.bundle, tmp_path / "bundle")
    slimgate = python.with_name("slimgate")
    told = subprocess.run([slimgate, "--help"], capture_output=True, text=True, check=True)
    assert "Exit codes" in told.stdout
    judged = subprocess.run(
        [slimgate, "gate", tmp_path / "bundle"], capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stderr) == (0, "")
    assert "verdict: PASS" in judged.stdout


@pytest.mark.parametrize("python", [(3, 11), (3, 13), (3, 14)])
@pytest.mark.parametrize(
    ("system", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
)
@pytest.mark.parametrize("library", CONVERTERS)
def test_a_converter_without_a_wheel_is_left_out_and_told_so(
    library: str, python: tuple[int, int], system: str, machine: str
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        requirement
        for extra in project["optional-dependencies"].values()
        for requirement in map(Requirement, extra)
        if requirement.name == library
    ]
    where = {
        "python_version": ".".join(map(str, python)),
        "sys_platform": system,
        "platform_machine": machine,
    }
    assert len(asked) == 1
    assert asked[0].marker is not None
    installed = asked[0].marker.evaluate(where)
    assert bool(no_wheel(library, python, system, machine)) == (not installed)
