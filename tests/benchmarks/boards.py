"""Boards on this machine: Debian's sshd with a home of its own, asyncssh's server, and a wire
between that can be spoiled.
"""

import asyncio
import getpass
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from profiles.device import Ssh

if TYPE_CHECKING:
    import asyncssh

    Sftp = Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer]
    Handler = Callable[[asyncssh.SSHServerProcess[bytes]], Coroutine[None, None, None]]

How = Literal["drop", "reset", "stall", "flip", "slow"]
SSHD = Path("/usr/sbin/sshd")
PRIVSEP = Path("/run/sshd")
"""Which sshd wants to be there when root starts it."""
CONFIG = """
{more}
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv HOME={home}
Subsystem sftp {sftp}
"""
LIAR = """#!{real}
import json, os, signal, subprocess, sys, time
line = sys.stdin.readline()
job = json.loads(line)
files = os.path.expanduser("~/.slimgate")

def honest():
    pipe = subprocess.PIPE
    with subprocess.Popen(["{real}", *sys.argv[1:]], stdin=pipe, stdout=pipe, text=True) as real:
        real.stdin.write(line)
        real.stdin.flush()
        answer = real.stdout.read()
    return answer, real.returncode

{body}
"""
LINGER_NOT = struct.pack("ii", 1, 0)
"""A socket closed with it sends a reset."""


def obstacle() -> str:
    """Why there can be no board here; empty where there can."""
    if find_spec("asyncssh") is None:
        return "asyncssh is not installed"
    return "" if SSHD.exists() else f"there is no {SSHD}"


@dataclass(frozen=True)
class Board:
    """An SSH server that is up; its files are below `home`."""

    ssh: Ssh
    home: Path
    process: "subprocess.Popen[bytes]"

    @property
    def files(self) -> Path:
        return self.home / ".slimgate"

    def falls_silent(self) -> bool:
        """Whether within seconds nothing runs with this home any more."""
        for _ in range(50):
            if not _processes_of(self.home):
                return True
            time.sleep(0.1)
        return False

    def reboot(self) -> None:
        """Nothing of it goes on, and nobody is told."""
        for pid in (*_below(self.process.pid), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def make_keys(folder: Path, kind: str = "ssh-ed25519") -> str:
    """A host key and the key of a user who is let in; the public host key as `Ssh` has it."""
    import asyncssh

    host, user = (asyncssh.generate_private_key(kind) for _ in range(2))
    for name, key in (("host_key", host), ("user_key", user)):
        (folder / name).touch(0o600)
        key.write_private_key(folder / name)
    user.write_public_key(folder / "authorized_keys")
    return host.export_public_key().decode().strip()


@contextmanager
def sshd(
    folder: Path, sftp: str = "internal-sftp -d {home}", more: str = "", kind: str = "ssh-ed25519"
) -> Iterator[Board]:
    """A real server. `sftp` is what it starts for SFTP, `more` lines for its configuration."""
    home, port = folder / "home", free_port()
    home.mkdir()
    if os.geteuid() == 0:
        PRIVSEP.mkdir(exist_ok=True)
    key = make_keys(folder, kind)
    config = folder / "sshd_config"
    start = sftp.format(home=home)
    more = more.format(home=home)
    config.write_text(CONFIG.format(port=port, folder=folder, home=home, sftp=start, more=more))
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=log)
    board = Board(ssh_of(folder, port, key), home, process)
    try:
        _await(port)
        yield board
    finally:
        board.reboot()
        process.wait()


@contextmanager
def made_up(
    folder: Path, sftp: "Sftp | None" = None, process: "Handler | None" = None
) -> Iterator[Ssh]:
    """A server of asyncssh's in a thread, with whatever faults its SFTP and its commands have."""
    import asyncssh

    key = make_keys(folder)
    started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]()

    async def serve() -> None:
        ended = asyncio.Event()
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(folder / "host_key")],
            authorized_client_keys=str(folder / "authorized_keys"),
            sftp_factory=sftp or False,
            process_factory=process,
            encoding=None,
        )
        started.set_result((asyncio.get_running_loop(), ended, server.get_port()))
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    loop, ended, port = started.result()
    try:
        yield ssh_of(folder, port, key)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(5)


def ssh_of(folder: Path, port: int, key: str) -> Ssh:
    """How to get at the server whose keys are in `folder`, with this interpreter as its own."""
    return Ssh(
        host="127.0.0.1",
        port=port,
        user=getpass.getuser(),
        host_key=key,
        key_file=str(folder / "user_key"),
        python=sys.executable,
        timeout_s=60,
    )


def obeys(
    home: Path,
) -> "Callable[[asyncssh.SSHServerProcess[bytes]], Coroutine[None, None, None]]":
    """A server of asyncssh's does as it is told, with `home` as its home."""

    async def handle(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        pipe = subprocess.PIPE
        child = await asyncio.create_subprocess_shell(
            process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, env=home_of(home)
        )
        await process.redirect(child.stdin, child.stdout, child.stderr)
        process.exit(await child.wait())

    return handle


def home_of(home: Path) -> dict[str, str]:
    """The environment that makes `home` the home."""
    return {**os.environ, "HOME": str(home)}


def changed(ssh: Ssh, **fields: object) -> Ssh:
    """The same but for some fields."""
    return Ssh.model_validate({**ssh.model_dump(), **fields})


def rooted(home: Path, kind: "type[asyncssh.SFTPServer]") -> "Sftp":
    """A server of that kind for the files below `home`."""
    return lambda channel: kind(channel, chroot=os.fsencode(home))


def liar(folder: Path, body: str) -> str:
    """An interpreter that does what `body` says with a `job`, a dict, and `honest()`, which gives
    the answer and the exit code of the real one.
    """
    path = folder / "liar"
    path.write_text(LIAR.format(real=sys.executable, body=body))
    path.chmod(0o755)
    return str(path)


@dataclass(frozen=True)
class Spoil:
    """What becomes of the bytes of one direction of a connection, after the first so many."""

    how: How
    upwards: bool
    """From us to the board."""
    after: int


@contextmanager
def wire(port: int, spoil: Spoil) -> Iterator[int]:
    """Another port, behind which everything goes to `port` and back, but for what is spoiled."""
    ended = threading.Event()
    ends: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                for source, sink, upwards in ((near, far, True), (far, near, False)):
                    own = spoil if upwards == spoil.upwards else None
                    arguments = (source, sink, own, ended)
                    threading.Thread(target=_pump, args=arguments, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ended.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for end in ends:
                _hang_up(end)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _pump(
    source: socket.socket, sink: socket.socket, spoil: Spoil | None, ended: threading.Event
) -> None:
    passed = 0
    with suppress(OSError):
        while data := source.recv(256 if spoil and spoil.how == "slow" else 1 << 16):
            if spoil and passed + len(data) > spoil.after:
                data = _spoiled(spoil, data, spoil.after - passed, sink, ended)
            sink.sendall(data)
            passed += len(data)
    _hang_up(source)
    _hang_up(sink)


def _spoiled(
    spoil: Spoil, data: bytes, at: int, sink: socket.socket, ended: threading.Event
) -> bytes:
    """What is sent instead, if anything ever is; `at` is where in `data` the fault begins.

    Raises OSError where the connection is to end.
    """
    if spoil.how == "slow":
        ended.wait(len(data) / 1000)
        return data
    if spoil.how == "flip":
        changed = bytearray(data)
        if at >= 0:
            changed[at] ^= 1
        return bytes(changed)
    sink.sendall(data[: max(at, 0)])
    if spoil.how == "stall":
        ended.wait()
    if spoil.how == "reset":
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sink.close()
    raise OSError("the wire is cut")


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        end.close()


def _await(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("sshd does not start")


def _processes_of(home: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _below(pid: int) -> list[int]:
    """All processes that come of a process, as Linux tells."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [*_below(int(child)), int(child)]
    return found
