"""Boards with one thing wrong with them: each gives the address of its own, spoiled as a seed says.

`ssh.timeout_s` is WAIT_S where nothing comes any more, and ENOUGH_S where something does.
"""

import fcntl
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import asyncssh
from boards import Board, How, Spoil, changed, free_port, liar, made_up, make_keys, obeys, rooted
from boards import sshd as real
from boards import wire as spoilt

from profiles.device import Ssh

Fault = Callable[[Path, int], AbstractContextManager[Ssh]]
WAIT_S, ENOUGH_S = 5, 60
PASS_ON = """
answer, code = honest()
sys.stdout.write(answer)
sys.exit(code)
"""
LIE = """
import threading
seed, WAIT = {seed}, {wait}

def flip(path):
    with open(path, "r+b") as file:
        at = seed * 7919 % os.path.getsize(path)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))

if job["kind"] != {kind!r}:
    answer, code = honest()
    with open(os.path.expanduser("~/before"), "w") as file:
        file.write(answer)
    sys.stdout.write(answer)
    sys.exit(code)
{words}
"""
SAY = """
MIB = "baseline_mib", "peak_mib", "steady_mib"
answer, _ = honest()

def told(change):
    found = json.loads(answer)
    return json.dumps({{**found, "result": change(found["result"])}})

def before():
    with open(os.path.expanduser("~/before")) as file:
        return file.read()

sys.stdout.write({words})
"""


class Impossible(Exception):
    """This fault cannot be had on this machine; its text says why."""


def doing(words: str, jobs: Sequence[str], waits: bool = False) -> Fault:
    """The interpreter does something of its own for one kind of job."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        body = LIE.format(
            seed=seed, wait=3 * WAIT_S, kind=jobs[seed % len(jobs)], words=words.strip("\n")
        )
        with real(folder) as board:
            yield _asked(board.ssh, waits, python=liar(folder, body))

    return fault


def saying(words: str, jobs: Sequence[str]) -> Fault:
    """Something else is answered to one kind of job: an expression of the true `answer`."""
    return doing(SAY.format(words=words), jobs)


def patched(words: str, waits: bool = False) -> Fault:
    """The interpreter is changed before it runs anything."""

    def make(folder: Path) -> str:
        path = folder / "patched"
        path.write_text(f"#!{sys.executable}\nimport sys\n{words}\nexec(sys.argv[2])\n")
        path.chmod(0o755)
        return str(path)

    return python(make, waits)


def python(make: Callable[[Path], str], waits: bool = False) -> Fault:
    """Another interpreter, or none; `make` gives its path."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        with real(folder) as board:
            yield _asked(board.ssh, waits, python=make(folder))

    return fault


def configured(sftp: str = "internal-sftp -d {home}", more: str = "", waits: bool = False) -> Fault:
    """sshd is set up otherwise."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        with real(folder, sftp, more) as board:
            yield _asked(board.ssh, waits)

    return fault


def arranged(arrange: Callable[[Board, int], object]) -> Fault:
    """The board's files are arranged before anything comes."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        with real(folder) as board:
            arrange(board, seed)
            yield _asked(board.ssh, False)

    return fault


def wired(how: How, upwards: bool, low: int, high: int) -> Fault:
    """The wire is spoiled somewhere between two bytes."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        after = random.Random(seed).randrange(low, high)
        spoil = Spoil(how, upwards, after)
        with real(folder) as board, spoilt(board.ssh.port, spoil) as port:
            yield _asked(board.ssh, True, port=port)

    return fault


def served(
    sftp: Callable[[int], type[asyncssh.SFTPServer]] | None,
    commands: bool = True,
    waits: bool = False,
) -> Fault:
    """asyncssh serves, with an SFTP server of its own and with commands, or without."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        home = folder / "home"
        home.mkdir()
        kind = None if sftp is None else rooted(home, sftp(seed))
        with made_up(folder, kind, obeys(home) if commands else None) as ssh:
            yield _asked(ssh, waits)

    return fault


def addressed(**fields: str) -> Fault:
    """Another address than the board's."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        with real(folder) as board:
            yield _asked(board.ssh, False, **fields)

    return fault


def other_key(kind: str) -> Fault:
    """Another key is pinned than the board's."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        other = folder / "other"
        other.mkdir()
        with real(folder) as board:
            yield _asked(board.ssh, False, host_key=make_keys(other, kind))

    return fault


def sent(greeting: bytes) -> Fault:
    """Something else listens there, says this, and waits."""

    @contextmanager
    def fault(folder: Path, seed: int) -> Iterator[Ssh]:
        ended = threading.Event()

        def serve() -> None:
            with suppress(OSError):
                end, _ = server.accept()
                with end:
                    end.sendall(greeting)
                    ended.wait()

        with real(folder) as board, socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=serve, daemon=True).start()
            yield _asked(board.ssh, True, port=server.getsockname()[1])
            ended.set()

    return fault


@contextmanager
def refused_user(folder: Path, seed: int) -> Iterator[Ssh]:
    other = folder / "other"
    other.mkdir()
    make_keys(other)
    with real(folder) as board:
        yield _asked(board.ssh, False, key_file=str(other / "user_key"))


@contextmanager
def refused_port(folder: Path, seed: int) -> Iterator[Ssh]:
    with real(folder) as board:
        yield _asked(board.ssh, False, port=free_port())


@contextmanager
def rebooting(folder: Path, seed: int) -> Iterator[Ssh]:
    with real(folder) as board:
        threading.Timer(0.2 + 0.7 * seed, board.reboot).start()
        yield _asked(board.ssh, True)


@contextmanager
def held(folder: Path, seed: int) -> Iterator[Ssh]:
    """Somebody else measures there."""
    with real(folder) as board:
        board.files.mkdir(0o700)
        with (board.files / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield _asked(board.ssh, True)


@contextmanager
def small_disk(folder: Path, seed: int) -> Iterator[Ssh]:
    """The home is a file system of its own, of some hundred KiB."""
    with real(folder) as board:
        size = f"size={20 + 40 * seed}k"
        command = ["mount", "-t", "tmpfs", "-o", size, "none", str(board.home)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Impossible(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            yield _asked(board.ssh, False)
        finally:
            subprocess.run(["umount", "-l", str(board.home)], check=True)


def preplaced(content: bytes) -> Callable[[Board, int], None]:
    """Something else lies there under the name of this content, as long as it is."""

    def arrange(board: Board, seed: int) -> None:
        board.files.mkdir(0o700)
        other = bytearray(content)
        other[seed * 7919 % len(other)] ^= 1
        (board.files / hashlib.sha256(content).hexdigest()).write_bytes(other)

    return arrange


def linked(board: Board, seed: int) -> None:
    elsewhere = board.home / "elsewhere"
    elsewhere.mkdir(0o700)
    board.files.symlink_to(elsewhere)


def open_to_others(board: Board, seed: int) -> None:
    board.files.mkdir()
    board.files.chmod((0o777, 0o770, 0o702, 0o720, 0o1777)[seed % 5])


def foreign(folder: Path) -> str:
    """A program for another processor."""
    path = folder / "foreign"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(100))
    path.chmod(0o755)
    return str(path)


def denying(name: str) -> Callable[[int], type[asyncssh.SFTPServer]]:
    """One operation is not allowed."""

    def deny(self: object, *_: object) -> NoReturn:
        raise asyncssh.SFTPPermissionDenied("Permission denied")

    return lambda seed: type("Denying", (asyncssh.SFTPServer,), {name: deny})


class Writing(asyncssh.SFTPServer):
    """One write goes wrong, after so many bytes of all."""

    after = 0
    written = 0

    def write(self, file_obj: object, offset: int, data: bytes) -> "int | Awaitable[int]":
        self.written += len(data)
        if self.written > self.after:
            self.after = 1 << 60
            return self.wrong(file_obj, offset, data)
        return super().write(file_obj, offset, data)

    def wrong(self, file_obj: object, offset: int, data: bytes) -> "int | Awaitable[int]":
        raise asyncssh.SFTPFailure("Failure")


class Full(Writing):
    """The disk is full, and says so to who asks."""

    def statvfs(self, path: bytes) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 2, 2, 9, 9, 9, 0, 255))


class Losing(Writing):
    """What is written is lost."""

    def wrong(self, file_obj: object, offset: int, data: bytes) -> "int | Awaitable[int]":
        self.after = 0
        return len(data)


class Garbling(Writing):
    """One bit is written wrongly."""

    def wrong(self, file_obj: object, offset: int, data: bytes) -> "int | Awaitable[int]":
        return super().write(file_obj, offset, bytes([data[0] ^ 1]) + data[1:])


class Stalling(Writing):
    """It comes to a halt."""

    def wrong(self, file_obj: object, offset: int, data: bytes) -> "int | Awaitable[int]":
        time.sleep(3 * WAIT_S)
        return len(data)


def writing(kind: type[Writing]) -> Callable[[int], type[asyncssh.SFTPServer]]:
    """A server whose writes go wrong while the program comes, the engine or the inputs."""
    after = (0, 20_000, 60_000, 200_000, 500_000)
    return lambda seed: type("Spoiled", (kind,), {"after": after[seed % 5]})


def _asked(ssh: Ssh, waits: bool, **fields: object) -> Ssh:
    return changed(ssh, timeout_s=WAIT_S if waits else ENOUGH_S, **fields)
