"""The folder on a board: files are what their names say, and one job runs at a time."""

import os
import shutil
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from board_jobs import NAME, RAW, Board, latency_job, outputs_job, start_job, wait_for

from exporters.board.files import LOCK, sweep

CRAMPED = (
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command that can write the line in the lock file, and no array."""


@pytest.fixture
def here(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_changed_engine_is_refused(here: Board) -> None:
    (here.files / NAME).write_bytes(RAW[:-1] + b"?")
    here.refuses(start_job(), 7, NAME, "somebody changed it")


def test_an_engine_changed_while_it_is_measured_is_refused(here: Board) -> None:
    with here.start(latency_job(1.0)) as process:
        wait_for(here.files / LOCK)
        time.sleep(0.5)
        (here.files / NAME).write_bytes(RAW[:-1] + b"?")
        assert process.stdout
        assert process.stderr
        assert process.stdout.read() == ""
        assert "while it was used" in process.stderr.read()
    assert process.returncode == 7


def test_a_file_that_arrives_whole_gets_its_name(here: Board) -> None:
    (here.files / NAME).rename(here.files / "fresh.part")
    here.result(replace(start_job(), files={NAME: "fresh.part"}))
    assert here.names() == {LOCK, NAME}


def test_a_file_that_arrives_damaged_is_taken_away(here: Board) -> None:
    (here.files / NAME).unlink()
    (here.files / "fresh.part").write_bytes(RAW[:-1])
    here.refuses(replace(start_job(), files={NAME: "fresh.part"}), 7, "arrived damaged")
    assert here.names() == {LOCK}


def test_a_file_that_is_gone_is_a_fault_of_the_device(here: Board) -> None:
    (here.files / NAME).unlink()
    here.refuses(start_job(), 4, NAME, "not there")
    shutil.rmtree(here.files)
    here.refuses(start_job(), 4, "not there")


def test_a_folder_that_others_may_write_to_is_refused(here: Board) -> None:
    here.files.chmod(0o777)
    here.refuses(start_job(), 7, "others may write")
    here.files.chmod(0o700)
    away = here.files.rename(here.home / "elsewhere")
    here.files.symlink_to(away)
    here.refuses(start_job(), 7, "others may write")


def test_one_measures_at_a_time_and_the_next_learns_who_it_is(here: Board) -> None:
    with here.start(latency_job(60.0)) as first:
        wait_for(here.files / LOCK, content=True)
        began = time.perf_counter()
        here.refuses(start_job(wait_s=0.5), 4, f"in use by process {first.pid} for 192.0.2.7")
        assert 0.5 < time.perf_counter() - began < 5
        first.kill()
    here.result(start_job())


def test_a_lease_that_was_taken_away_spoils_the_measurement(here: Board) -> None:
    with here.start(latency_job(1.0)) as process:
        wait_for(here.files / LOCK, content=True)
        (here.files / LOCK).unlink()
        (here.files / LOCK).touch()
        assert process.stderr
        assert "lease was taken away" in process.stderr.read()
    assert process.returncode == 4


def test_what_no_job_asks_for_is_swept_after_a_week(here: Board) -> None:
    ages = {"old": 8, "young": 6, "from-the-future": -8, LOCK: 30, NAME: 30}
    for name, days in ages.items():
        path = here.files / name
        path.touch()
        when = time.time() - days * 24 * 3600
        os.utime(path, (when, when))
    here.result(start_job())
    assert here.names() == {"young", LOCK, NAME}


def test_what_a_broken_transfer_left_is_swept_after_hours(here: Board) -> None:
    for name, hours in {"a.onnx.0a.part": 3, "b.onnx.0b.part": 1}.items():
        (here.files / name).touch()
        when = time.time() - hours * 3600
        os.utime(here.files / name, (when, when))
    here.result(start_job())
    assert here.names() == {"b.onnx.0b.part", LOCK, NAME}


def test_two_clients_that_sweep_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each finds files that the other has deleted since it listed them."""
    for number in range(3000):
        path = tmp_path / f"{number}.part"
        path.touch()
        os.utime(path, (0, 0))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(sweep, tmp_path) for _ in range(4)]
    for one in done:
        one.result()
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_leave_nothing(here: Board) -> None:
    code, out, err = here.ask(outputs_job(here), sys.executable, "-c", CRAMPED, *here.command())
    assert (code, out) == (4, "")
    assert "OSError" in err
    assert not {name for name in here.names() if name.endswith(("out", "out.part"))}


def test_the_lock_is_for_its_owner_alone(here: Board) -> None:
    here.result(start_job())
    assert stat.S_IMODE((here.files / LOCK).stat().st_mode) == 0o600
