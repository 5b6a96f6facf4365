"""One connection to a board: its key is pinned, nothing waits for ever, all it says is bounded."""

import asyncio
import hashlib
import secrets
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from exporters.board.main import FOLDER
from profiles.device import Ssh
from profiles.errors import ConfigError, DeviceError, IntegrityError, MissingExtra, StageError

try:
    import asyncssh
    from asyncssh.public_key import get_default_public_key_algs
except ImportError as error:
    raise MissingExtra("asyncssh", "ssh") from error

CONNECT_S = 30.0
"""The longest time from the first packet to a session."""
CLEAN_UP_S = 2.0
"""The longest time for what is done on the way out."""
KEEPALIVE_S = 15.0
"""How often a silent board is asked whether it is still there; it may miss three."""
MAX_ANSWER = 16 << 20
"""The most bytes of an answer, and of what is written on stderr."""
MAX_LINE = 2000
"""Characters of somebody else's error that are repeated."""
CHUNK = 1 << 16
BOOTSTRAP = (
    "import sys;"
    "sys.path[:]=filter(None,sys.path);"  # Python adds the current folder
    "sys.version_info<(3,8)and sys.exit('Python 3.8 or newer is needed, it is '+sys.version[:6]);"
    "import hashlib,os,runpy;"
    "p=os.path.expanduser('~/{folder}/{name}');"
    "hashlib.sha256(open(p,'rb').read()).hexdigest()=='{name}'or("
    "sys.stderr.write(p+': somebody changed it since it was sent; remove it, and find out who'),"
    "sys.exit({changed}));"
    "runpy.run_path(p,run_name='__main__')"
)
"""Holds the program to its hash and runs it; an old Python, too, understands so much of it."""
NO_INTERPRETER = {126, 127}
"""How shells exit where there is no such command, or none that this processor runs."""


@dataclass(frozen=True)
class Connection:
    """A board that is reached. What asyncssh raises in any of this is for `named_errors` to say."""

    ssh: Ssh
    client: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient

    async def push(self, name: str, content: bytes) -> str | None:
        """Write a file under a name of its own, and return that; None where it is there already.

        It is for the board to hold the file to its hash, and to rename it. Raises DeviceError.
        """
        part = f"{name}.{secrets.token_hex(8)}.part"
        try:
            if not await self.sftp.exists(FOLDER):
                await self._make_folder()
            if await self._size(name) == len(content):
                return None
            # Not as a context: its end would wait for a board that says nothing any more.
            file = await self.sftp.open(f"{FOLDER}/{part}", "wb")
            await file.write(content)
            await file.close()
        except asyncssh.SFTPFailure as error:
            await self.delete(part)
            await self._check_room(len(content), error)
            raise
        if await self._size(part) != len(content):
            raise DeviceError(
                f"{FOLDER}/{part} is not as long as the {len(content)} bytes sent; check its disk"
            )
        return part

    async def rename(self, part: str, name: str) -> None:
        await self.sftp.posix_rename(f"{FOLDER}/{part}", f"{FOLDER}/{name}")

    async def pull(self, name: str, limit: int) -> bytes:
        """The content of a file. Raises DeviceError for none, or one of more than `limit` bytes."""
        size = await self._size(name)
        if size is None or size > limit:
            found = (
                "is missing" if size is None else f"has {size} bytes, {limit} are allowed at most"
            )
            raise DeviceError(f"{FOLDER}/{name} {found}; run again")
        file = await self.sftp.open(f"{FOLDER}/{name}", "rb")
        content: bytes = await file.read(size)
        await file.close()
        return content

    async def delete(self, *names: str) -> None:
        """Take files away, if the board still listens; what stays its next jobs sweep."""
        with suppress(Exception):
            async with asyncio.timeout(CLEAN_UP_S):
                for name in names:
                    with suppress(asyncssh.SFTPError):
                        await self.sftp.remove(f"{FOLDER}/{name}")

    async def run(self, program: str, line: str, builds: bool) -> bytes:
        """What the stored program answers to a line on its stdin, which stays open as long as we
        live: its end tells the program to die.

        Raises DeviceError, IntegrityError where the board says that a file was changed, and where
        it `builds` StageError if it says that it cannot.
        """
        code = BOOTSTRAP.format(folder=FOLDER, name=program, changed=IntegrityError.exit_code)
        command = f"exec {shlex.quote(self.ssh.python)} -c {shlex.quote(code)}"
        process = await self.client.create_process(command, encoding=None)
        try:
            with suppress(OSError):  # what ended already says why in its own way
                process.stdin.write(line.encode())
            answer, words = await asyncio.gather(
                _all(process.stdout, "answered"), _all(process.stderr, "wrote on stderr")
            )
            await process.wait_closed()
        finally:
            process.close()
        if process.exit_status != 0:
            raise self._failed(process, words, builds)
        return answer

    def _failed(
        self, process: "asyncssh.SSHClientProcess[bytes]", words: bytes, builds: bool
    ) -> DeviceError | IntegrityError | StageError:
        lines = words.decode("utf-8", "replace").strip().splitlines() or [""]
        line = "".join(c if c.isprintable() else "?" for c in lines[-1][:MAX_LINE])
        if process.exit_signal:
            how = f"was ended by the signal {process.exit_signal[0][:20]}"
            return DeviceError(f"the measuring process {how}; {line or 'check its free memory'}")
        if process.exit_status is None:
            return DeviceError(
                "the connection broke while the measuring process ran; check its network, run again"
            )
        if process.exit_status in NO_INTERPRETER:
            return DeviceError(
                f"{self.ssh.python} does not run on the board, set ssh.python; {line}"
            )
        if process.exit_status == IntegrityError.exit_code:
            return IntegrityError(line or "it reports that a file was changed")
        if builds and process.exit_status == StageError.exit_code:
            return StageError(line or "it reports that it cannot build the engine")
        return DeviceError(line or f"the measuring process ended with {process.exit_status}")

    async def _make_folder(self) -> None:
        try:
            await self.sftp.mkdir(FOLDER, asyncssh.SFTPAttrs(permissions=0o700))
        except asyncssh.SFTPFailure:
            if not await self.sftp.exists(FOLDER):  # somebody else may have been first
                raise

    async def _size(self, name: str) -> int | None:
        try:
            return (await self.sftp.stat(f"{FOLDER}/{name}")).size
        except asyncssh.SFTPNoSuchFile:
            return None

    async def _check_room(self, size: int, error: asyncssh.SFTPError) -> None:
        """Raise DeviceError for a full disk, which SFTP has no word for."""
        with suppress(asyncssh.SFTPError):
            disk = await self.sftp.statvfs(FOLDER)
            free = disk.bavail * disk.frsize
            if free < size:
                words = f"its disk is full: {free} bytes are free, {size} are needed; free some"
                raise DeviceError(words) from error


@asynccontextmanager
async def connected(ssh: Ssh) -> AsyncIterator[Connection]:
    """The board, reached, within CONNECT_S. Raises ConfigError, and what `named_errors` says."""
    async with asyncio.timeout(min(CONNECT_S, ssh.timeout_s)):
        client = await _login(ssh)
        try:
            sftp = await client.start_sftp_client()
        except BaseException:
            client.abort()
            raise
    try:
        yield Connection(ssh, client, sftp)
    finally:
        client.close()
        with suppress(Exception):  # the board may be gone
            async with asyncio.timeout(CLEAN_UP_S):
                await client.wait_closed()
        client.abort()


async def _login(ssh: Ssh) -> asyncssh.SSHClientConnection:
    try:
        pinned = asyncssh.import_public_key(ssh.host_key)
    except ValueError as error:
        raise ConfigError(f"target.ssh.host_key: not a public key ({error})") from error
    known = [algorithm.decode() for algorithm in get_default_public_key_algs()]
    own = [algorithm.decode() for algorithm in pinned.sig_algorithms]
    # Other kinds too, last: a board with a new key of another kind is told from one that is silent.
    algorithms = sorted(known, key=lambda algorithm: algorithm not in own)
    key_file = None if ssh.key_file is None else Path(ssh.key_file).absolute()
    if key_file is not None and not key_file.is_file():
        raise ConfigError(f"target.ssh.key_file: {key_file}: no such file")
    try:
        return await asyncssh.connect(
            ssh.host,
            ssh.port,
            username=ssh.user,
            config=None,  # a user's file may name commands
            known_hosts=([pinned], [], []),
            server_host_key_algs=algorithms,
            x509_trusted_certs=None,
            client_keys=() if key_file is None else [str(key_file)],
            agent_path=() if key_file is None else None,
            agent_forwarding=False,
            x11_forwarding=False,
            preferred_auth=["publickey"],
            host_based_auth=False,
            kbdint_auth=False,
            password_auth=False,
            gss_auth=False,
            gss_kex=False,
            keepalive_interval=KEEPALIVE_S,
        )
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ConfigError(f"target.ssh.key_file: {error}; a locked key needs an agent") from error


@contextmanager
def named_errors(ssh: Ssh) -> Iterator[None]:
    """Raise every error as one of ours, which names the board, what is wrong and what to do."""
    where = address_of(ssh)
    try:
        yield
    except ConfigError:
        raise
    except DeviceError as error:
        raise DeviceError(f"{where}: {error}") from error
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error}") from error
    except StageError as error:
        raise StageError(f"{where}: {error}") from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise IntegrityError(
            f"{where}: its host key is not the one in ssh.host_key, so nothing was sent: it is "
            "another machine, or was installed anew; only if you know why, put the new key there"
        ) from error
    except asyncssh.KeyExchangeFailed as error:
        if "No matching" in error.reason:
            raise DeviceError(f"{where}: its SSH server is too old: {error.reason}") from error
        raise IntegrityError(
            f"{where}: it shows the host key in ssh.host_key and cannot prove that it is its own, "
            f"so nothing was sent: somebody may be in between ({error.reason})"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise DeviceError(
            f"{where}: {ssh.user} is not let in: put your public key into its authorized_keys, "
            "and name the private one in ssh.key_file"
        ) from error
    except TimeoutError as error:
        raise DeviceError(
            f"{where}: no answer in time; is it on, and its network up? "
            f"ssh.timeout_s is {ssh.timeout_s:g}"
        ) from error
    except asyncssh.ChannelOpenError as error:
        raise DeviceError(
            f"{where}: no commands or no SFTP there ({error.reason}); enable both, run again"
        ) from error
    except (asyncssh.SFTPFailure, asyncssh.SFTPPermissionDenied, asyncssh.SFTPNoSuchFile) as error:
        raise DeviceError(
            f"{where}: ~/{FOLDER}: {error.reason}; is it yours, and is there room?"
        ) from error
    except Exception as error:  # whatever a broken server makes asyncssh raise
        reason = (str(error) or type(error).__name__)[:MAX_LINE]
        raise DeviceError(
            f"{where}: the connection failed: {reason}; is it on, and the address right?"
        ) from error


def address_of(ssh: Ssh) -> str:
    """The board's name in messages."""
    return f"{ssh.user}@{ssh.host}:{ssh.port}"


def digest_of(content: bytes) -> str:
    """The SHA-256, as the board's files are named."""
    return hashlib.sha256(content).hexdigest()


async def _all(stream: "asyncssh.SSHReader[bytes]", did: str) -> bytes:
    """Everything to the end of a stream. Raises DeviceError beyond MAX_ANSWER bytes."""
    found = bytearray()
    while chunk := await stream.read(CHUNK):
        found += chunk
        if len(found) > MAX_ANSWER:
            raise DeviceError(f"it {did} more than {MAX_ANSWER >> 20} MiB")
    return bytes(found)
