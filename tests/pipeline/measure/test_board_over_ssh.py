"""Measuring on a board over SSH: the right one, whole answers, and an end to everything."""

import fcntl
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from boards import (
    Board,
    How,
    Spoil,
    changed,
    free_port,
    liar,
    made_up,
    make_keys,
    obeys,
    obstacle,
    rooted,
    sshd,
    wire,
)
from onnx_graphs import Floats, linear
from user_project import Project

from exporters.board_program import board_program
from exporters.worker import EngineFile, Job, LatencyJob, StartJob
from pipeline.cli import Stopped
from pipeline.measure.places import ThisMachine, place_of
from profiles.device import EngineOptions, Ssh
from profiles.errors import ConfigError, DeviceError, IntegrityError, MissingExtra
from profiles.measurement import LatencyRun, StartRun

if obstacle():
    pytest.skip(obstacle(), allow_module_level=True)

import asyncssh

from pipeline.measure import board as remote


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with sshd(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def engine(tmp_path: Path) -> EngineFile:
    path = tmp_path / "engine.onnx"
    path.write_bytes(linear().SerializeToString())
    return EngineFile(runtime="ort", options=EngineOptions(), path=str(path))


def start(engine: EngineFile) -> Job:
    return Job(start=StartJob(engine=engine, batch=1))


def latency(engine: EngineFile, seconds: float = 0.02) -> Job:
    job = LatencyJob(
        engines=dict.fromkeys(("dense", "control", "shipped"), engine),
        batch=1,
        seconds=seconds,
        least_samples=12,
        frame_interval_ms=None,
        seed=0,
    )
    return Job(latency=job)


def inputs(*sizes: int) -> list[Floats]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((size, 2), np.float32) for size in sizes]


def refusal(ssh: Ssh, engine: EngineFile, kind: type[Exception], *words: str) -> None:
    """Assert what is said when a start is asked for, and that it does not take too long."""
    began = time.perf_counter()
    with pytest.raises(kind) as caught, place_of(ssh) as place:
        place.answer(start(engine))
    assert time.perf_counter() - began < ssh.timeout_s + 5
    text = str(caught.value)
    assert f"{ssh.user}@{ssh.host}:{ssh.port}: " in text
    assert all(word in text for word in words), text


def test_a_board_answers_as_this_machine_does(board: Board, engine: EngineFile) -> None:
    given = inputs(3, 3, 2)
    with place_of(board.ssh) as place:
        host = place.host()
        found = StartRun.model_validate_json(place.answer(start(engine)))
        times = LatencyRun.model_validate_json(place.answer(latency(engine)))
        layers = place.layers_ms(engine, 1)
        outputs = list(place.outputs(engine, iter(given)))
    here = ThisMachine().host()
    assert (host.machine, host.cpu, host.cores) == (here.machine, here.cpu, here.cores)
    assert host.versions["onnxruntime"] == here.versions["onnxruntime"]
    assert 0 < found.baseline_mib < found.peak_mib
    assert times.is_whole()
    assert set(layers) == set(ThisMachine().layers_ms(engine, 1))
    for mine, theirs in zip(ThisMachine().outputs(engine, given), outputs, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_only_the_program_and_the_engines_stay_there_under_their_hashes(
    board: Board, engine: EngineFile
) -> None:
    with place_of(board.ssh) as one, place_of(board.ssh) as two:
        list(one.outputs(engine, inputs(2)))
        two.answer(start(engine))
    names = {path.name for path in board.files.iterdir()}
    assert len(names) == 3
    assert all(len(name) == 64 for name in names - {"lock"})


def test_inputs_go_in_chunks_and_come_back_in_batches(
    board: Board, engine: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 40)
    given = inputs(2, 2, 9, 1)
    with place_of(board.ssh) as place:
        outputs = list(place.outputs(engine, given))
    assert [len(output) for output in outputs] == [2, 2, 9, 1]
    for mine, theirs in zip(ThisMachine().outputs(engine, given), outputs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_another_host_key_is_another_machine(
    board: Board, engine: EngineFile, tmp_path: Path, kind: str
) -> None:
    stranger = changed(board.ssh, host_key=make_keys(tmp_path, kind))
    before = sorted(path.name for path in board.files.iterdir())
    refusal(stranger, engine, IntegrityError, "host key", "nothing was sent")
    assert sorted(path.name for path in board.files.iterdir()) == before


def test_who_shows_the_pinned_key_and_has_it_not_is_a_stranger(
    board: Board, engine: EngineFile
) -> None:
    # It signs all that was said before, so one bit of it makes the signature somebody else's.
    with wire(board.ssh.port, Spoil("flip", False, 200)) as port:
        refusal(changed(board.ssh, port=port), engine, IntegrityError, "cannot prove")


def test_who_is_not_let_in_learns_what_to_do(
    board: Board, engine: EngineFile, tmp_path: Path
) -> None:
    make_keys(tmp_path)
    other = changed(board.ssh, key_file=str(tmp_path / "user_key"))
    refusal(other, engine, DeviceError, "authorized_keys")
    refusal(changed(board.ssh, user="nobody-here"), engine, DeviceError, "nobody-here")


def test_where_nobody_listens_the_address_is_named(board: Board, engine: EngineFile) -> None:
    refusal(changed(board.ssh, port=free_port()), engine, DeviceError, "is it on")


def test_a_file_of_the_user_runs_no_command(
    board: Board, engine: EngineFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    canary = tmp_path / "canary"
    words = f"Host *\n  ProxyCommand touch {canary}\n  Port 1\n  User nobody\n  ForwardAgent yes\n"
    (tmp_path / ".ssh" / "config").write_text(words)
    monkeypatch.setenv("HOME", str(tmp_path))
    with place_of(board.ssh) as place:
        place.answer(start(engine))
    assert not canary.exists()


def test_what_the_user_got_wrong_is_a_mistake_of_the_recipe(
    board: Board, engine: EngineFile, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no key")
    for fields in (
        {"key_file": str(tmp_path / "none")},
        {"key_file": str(broken)},
        {"host_key": "ssh-ed25519 AAAA"},
    ):
        ssh = changed(board.ssh, **fields)
        with pytest.raises(ConfigError, match=next(iter(fields))), place_of(ssh):
            raise AssertionError
    with place_of(board.ssh) as place, pytest.raises(ConfigError, match=r"none\.onnx"):
        place.answer(start(engine.model_copy(update={"path": "none.onnx"})))


def test_without_the_library_its_extra_is_named(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    for name in ("pipeline.measure.ssh", "pipeline.measure.board"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"slimgate\[ssh\]"), place_of(board.ssh):
        raise AssertionError


def test_an_engine_swapped_under_its_name_is_refused(board: Board, engine: EngineFile) -> None:
    with place_of(board.ssh) as place:
        place.answer(start(engine))
        raw = Path(engine.path).read_bytes()
        stored = board.files / hashlib.sha256(raw).hexdigest()
        stored.write_bytes(raw[:-1] + b"?")
        with pytest.raises(IntegrityError, match="somebody changed it"):
            place.answer(start(engine))
        stored.write_bytes(raw)


def test_a_program_swapped_under_its_name_is_refused(board: Board, engine: EngineFile) -> None:
    with place_of(board.ssh) as place:
        place.host()
        raw = board_program()
        stored = board.files / hashlib.sha256(raw).hexdigest()
        stored.write_bytes(raw[:-1] + b"?")
        with pytest.raises(IntegrityError, match="somebody changed it"):
            place.answer(start(engine))
        stored.write_bytes(raw)


def test_a_board_in_use_is_waited_for_and_then_given_up(board: Board, engine: EngineFile) -> None:
    busy = changed(board.ssh, timeout_s=3)
    with place_of(board.ssh) as first:
        first.host()
        lock = board.files / "lock"
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate()
            file.write("somebody")
            file.flush()
            refusal(busy, engine, DeviceError, "in use by somebody")
        assert first.answer(start(engine))


def test_a_board_that_takes_too_long_is_left_and_nothing_runs_on_there(
    board: Board, engine: EngineFile, tmp_path: Path
) -> None:
    slow = changed(board.ssh, timeout_s=2, python=liar(tmp_path, "sys.stdin.read()"))
    refusal(slow, engine, DeviceError, "no answer in time", "ssh.timeout_s is 2")
    assert board.falls_silent()
    with pytest.raises(DeviceError), place_of(changed(board.ssh, timeout_s=3)) as place:
        place.answer(latency(engine, 60))
    assert board.falls_silent()


def test_a_board_that_goes_away_is_a_fault_of_the_device(
    engine: EngineFile, tmp_path: Path
) -> None:
    with sshd(tmp_path) as board, place_of(changed(board.ssh, timeout_s=10)) as place:
        place.host()
        board.reboot()
        with pytest.raises(DeviceError):
            place.answer(start(engine))
        with pytest.raises(DeviceError):
            place.host()


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ("print(honest()[0][:-5])", DeviceError, "could not be parsed"),
        ("print(honest()[0] * 2)", DeviceError, "could not be parsed"),
        ("print(honest()[0].replace('n', 'm', 1))", DeviceError, "could not be parsed"),
        ("print(json.dumps({'nonce': 'x', 'result': {}}))", IntegrityError, "another job"),
        ("sys.stdout.write('x' * (17 << 20))", DeviceError, "more than 16 MiB"),
        ("sys.stderr.write('x' * (17 << 20))", DeviceError, "more than 16 MiB"),
        ("print(honest()[0]); sys.exit(3)", DeviceError, "ended with 3"),
        ("os.kill(os.getpid(), 9)", DeviceError, "KILL"),
        ("", DeviceError, "could not be parsed"),
        ("sys.exit('line one\\nlast \\x1b[2J line')", DeviceError, "last ?[2J line"),
    ],
)
def test_an_answer_that_is_none_is_a_fault_of_the_device(
    board: Board, engine: EngineFile, tmp_path: Path, body: str, kind: type[Exception], word: str
) -> None:
    lying = changed(board.ssh, timeout_s=10, python=liar(tmp_path, body))
    refusal(lying, engine, kind, word)


def test_a_python_that_is_absent_or_not_for_this_processor_is_named(
    board: Board, engine: EngineFile, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64))
    foreign.chmod(0o755)
    for python in ("/no/such/python", str(foreign), f"python; touch {tmp_path}/canary"):
        refusal(changed(board.ssh, python=python), engine, DeviceError, "set ssh.python")
    assert not (tmp_path / "canary").exists()


def test_an_old_python_is_told_so(board: Board, engine: EngineFile, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.version_info, sys.version = (3, 6, 9), '3.6.9 (default)'\nexec(sys.argv[2])\n"
    )
    old.chmod(0o755)
    refusal(changed(board.ssh, python=str(old)), engine, DeviceError, "3.8 or newer", "3.6.9")


def test_outputs_must_be_those_that_were_told(
    board: Board, engine: EngineFile, tmp_path: Path
) -> None:
    name = "os.path.join(files, job['task']['inputs'] + '.out')"
    for body, kind, word in (
        (f"os.unlink({name})", DeviceError, "is missing"),
        (f"open({name}, 'r+b').write(b'?')", IntegrityError, "changed after the engine gave them"),
        (f"os.truncate({name}, 5 << 30)", DeviceError, "at most"),
    ):
        lying = f"answer, _ = honest()\n{body}\nprint(answer)"
        ssh = changed(board.ssh, python=liar(tmp_path, lying))
        with pytest.raises(kind, match=word), place_of(ssh) as place:
            list(place.outputs(engine, inputs(2)))


def test_a_server_without_sftp_or_without_commands_is_told_so(
    engine: EngineFile, tmp_path: Path
) -> None:
    with made_up(tmp_path, None, obeys(tmp_path)) as ssh:
        refusal(changed(ssh, timeout_s=5), engine, DeviceError, "no commands or no SFTP")
    with made_up(tmp_path, rooted(tmp_path, asyncssh.SFTPServer), None) as ssh:
        refusal(changed(ssh, timeout_s=5), engine, DeviceError, "no commands or no SFTP")


class Full(asyncssh.SFTPServer):
    """Its disk fills up."""

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        raise asyncssh.SFTPFailure("Failure")

    def statvfs(self, path: bytes) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 2, 2, 9, 9, 9, 0, 255))


class Mute(asyncssh.SFTPServer):
    """It takes everything and keeps nothing."""

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        return len(data)


@pytest.mark.parametrize(("server", "word"), [(Full, "its disk is full"), (Mute, "not as long")])
def test_a_board_that_does_not_keep_a_file_is_told_so(
    engine: EngineFile, tmp_path: Path, server: type[asyncssh.SFTPServer], word: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with made_up(tmp_path, rooted(home, server), obeys(home)) as ssh:
        refusal(ssh, engine, DeviceError, word)
    assert all(path.stat().st_size == 0 for path in (home / ".slimgate").iterdir())


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize(
    ("how", "after"), [("drop", 0), ("drop", 1500), ("drop", 9000), ("stall", 0), ("stall", 9000)]
)
def test_a_connection_may_break_at_any_byte(
    board: Board, engine: EngineFile, upwards: bool, how: How, after: int
) -> None:
    for path in board.files.iterdir():
        path.unlink()
    with wire(board.ssh.port, Spoil(how, upwards, after if upwards else after // 4)) as port:
        refusal(changed(board.ssh, port=port, timeout_s=2), engine, DeviceError)


def test_a_signal_ends_the_wait_and_the_measuring_process(board: Board, engine: EngineFile) -> None:
    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    began = time.perf_counter()
    with pytest.raises(Stopped), place_of(board.ssh) as place:
        place.answer(latency(engine, 60))
    assert 2 < time.perf_counter() - began < 8
    signal.signal(signal.SIGUSR1, before)
    assert board.falls_silent()


def test_a_run_of_the_whole_flow_measures_on_the_board(
    released: Project, board: Board, tmp_path: Path
) -> None:
    target = board.ssh.model_dump()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.measure.sessions.SESSIONS", 1)  # no limit here is on time
        passed = released.slimgate("run", released.recipe(target={"ssh": target}), "--json")
        assert passed.code == 0, passed.err
        assert json.loads(passed.out)["verdict"] == "pass"
    stranger = {**target, "host_key": make_keys(tmp_path)}
    refused = released.slimgate("run", released.recipe(target={"ssh": stranger}))
    refused.says(7, "host key")
