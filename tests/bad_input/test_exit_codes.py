"""Whatever happens, the exit code is a documented one: 1 is the gate's alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from user_project import Project

import pipeline.commands.doctor

MAIN = "from pipeline.cli import main; main()"


def gate(project: Project, output: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-c", MAIN, "gate", str(project.bundle)]
    return subprocess.run(
        command,
        stdout=output,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        check=False,
    )


def test_a_fault_of_our_own_is_a_bug_report_and_no_answer_of_the_gate(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(pipeline.commands.doctor, "examine", broken)
    project.slimgate("doctor").says(5, "unexpected KeyError", "please report it", "--debug")


def test_a_pass_that_cannot_be_printed_is_no_pass_and_no_refusal(released: Project) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        done = gate(released, full.fileno())
    assert done.returncode == 5
    assert b"could not be printed" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_standard_streams_does_what_it_would_do(
    released: Project, closed: str
) -> None:
    line = f'exec "$0" -P -c "{MAIN}" gate "$1" --junit "$2" {closed}'
    made = released.folder / "gate.xml"
    made.unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, str(released.bundle), str(made)],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert made.read_text().startswith("<")


def test_a_reader_that_is_gone_is_no_refusal(released: Project) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = gate(released, writes)
    os.close(writes)
    assert done.returncode == 5
    assert b"could not be printed" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_name_that_a_terminal_does_not_know_changes_no_verdict(released: Project) -> None:
    there = released.folder / "bündel"
    released.bundle.rename(there)
    released.bundle = there
    done = gate(released, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"verdict: PASS" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("nope",), ("plan",), ("gate", "x", "--tolerance", "y")])
def test_a_wrong_command_line_is_wrong_usage(project: Project, arguments: tuple[str, ...]) -> None:
    assert project.slimgate(*arguments).code == 2
