"""The program that runs on a board: one JSON job on stdin, one JSON answer on stdout.

Needs Python 3.8, numpy and the runtime; `exporters.program` packs it with what it imports. Files
lie in ~/.slimgate under names that begin with their SHA-256, and are held to it before and after
they are used. An error is one line on stderr and its own exit code: 7 for a file that is not the
one that was sent, 5 where a runtime cannot build an engine, 4 for anything else. It dies when its
stdin ends, and after `Job.limit_s`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import signal
import stat
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Union

from exporters.foreign import faults
from profiles import fresh
from profiles.errors import (
    DeviceError,
    IntegrityError,
    MissingExtra,
    SlimgateError,
    StageError,
)
from profiles.machine import machine_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from exporters.session import Session

FOLDER = ".slimgate"
"""In the user's home."""
LOCK = "lock"
LOOK_S = 0.1
"""How often a lease that another holds is asked for."""
KEEP_S = 7 * 24 * 3600
"""How long a file that no job asks for stays."""
CHUNK = 1 << 20
LONGEST_LINE = 2000
"""Characters of an error."""


@dataclass(frozen=True)
class Engine:
    """A stored engine, and how its runtime builds and opens it: `exporters.session.Options`."""

    name: str
    runtime: str
    threads: int
    precision: str
    portable: bool
    compute_capability: str | None

    def opened(self, folder: Path) -> Session:
        session: Session = _runtime(self.runtime).open_engine(str(folder / self.name), self)
        return session


@dataclass(frozen=True)
class Facts:
    """Tell of the machine, and of these libraries."""

    libraries: tuple[str, ...]

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """The fields of `profiles.host.Host`."""
        found = machine_facts(tuple(self.libraries))
        versions = found["versions"]
        assert isinstance(versions, dict)
        return {**found, "versions": {"python": platform.python_version(), **versions}}


@dataclass(frozen=True)
class Latency:
    """Time engines interleaved, by name; two names may share a file."""

    batch: int
    seconds: float
    least_samples: int
    frame_interval_ms: float | None
    seed: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """As `profiles.fresh.time_engines`."""
        loads = {
            name: partial(_loaded, engine, folder, self.batch) for name, engine in engines.items()
        }
        return fresh.time_engines(
            loads, self.seconds, self.least_samples, self.seed, self.frame_interval_ms
        )


@dataclass(frozen=True)
class Start:
    """Load one engine, and weigh it."""

    batch: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """As `profiles.fresh.start_engine`."""
        (engine,) = engines.values()
        _runtime(engine.runtime)  # imports the library
        return fresh.start_engine(partial(_loaded, engine, folder, self.batch))


@dataclass(frozen=True)
class Outputs:
    """Run one engine over a stored array [n, ...], `batch` rows at a time where it takes them."""

    inputs: str
    batch: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """The SHA-256 of the first outputs [n, ...], which are stored beside the inputs."""
        (engine,) = engines.values()
        session = engine.opened(folder)
        import numpy as np

        from exporters.session import first_output

        inputs = np.load(folder / self.inputs, mmap_mode="r", allow_pickle=False)
        parts = [
            first_output(session, np.array(inputs[start : start + self.batch]))
            for start in range(0, len(inputs), self.batch)
        ]
        with _new(folder / f"{self.inputs}.out.part") as part:
            with part.open("wb") as file:
                np.save(file, np.concatenate(parts), allow_pickle=False)
            found = _digest(part)
            _publish(part, folder / outputs_name(self.inputs))
        return {"sha256": found}


@dataclass(frozen=True)
class Build:
    """Build one engine of a stored ONNX model; what it is to be called is not known before."""

    model: str

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """The SHA-256 of the engine, under which it is stored, and what its runtime tells."""
        (engine,) = engines.values()
        runtime = _runtime(engine.runtime)
        with _new(folder / f"{self.model}.{engine.runtime}.part") as part:
            with faults(StageError, f"{engine.runtime} cannot build it"):
                facts = runtime.build_engine((folder / self.model).read_bytes(), str(part), engine)
            found = _digest(part)
            _publish(part, folder / found)
        return {"sha256": found, "facts": facts}


Task = Union[Facts, Latency, Start, Outputs, Build]  # noqa: UP007  # Python 3.8 has no | for types
TASKS = {"facts": Facts, "latency": Latency, "start": Start, "outputs": Outputs, "build": Build}


@dataclass(frozen=True)
class Job:
    """What is asked, once."""

    nonce: str
    """Comes back in the answer, which is to this job and to no other."""
    limit_s: float
    wait_s: float
    """For the lease, at most."""
    files: dict[str, str | None]
    """The stored files it needs; where one has just been written, under what name."""
    engines: dict[str, Engine]
    task: Task


def outputs_name(inputs: str) -> str:
    """What the outputs for these inputs are called."""
    return f"{inputs}.out"


def write_job(job: Job) -> str:
    """The job as one line of JSON."""
    (kind,) = (name for name, task in TASKS.items() if isinstance(job.task, task))
    fields = {**vars(job), "kind": kind, "task": vars(job.task)}
    engines = {name: vars(engine) for name, engine in job.engines.items()}
    return json.dumps({**fields, "engines": engines}, allow_nan=False) + "\n"


def read_job(text: str | bytes) -> Job:
    """What `write_job` wrote."""
    fields = json.loads(text)
    task = TASKS[fields.pop("kind")](**fields.pop("task"))
    engines = {name: Engine(**engine) for name, engine in fields.pop("engines").items()}
    return Job(task=task, engines=engines, **fields)


def obey(job: Job, folder: Path) -> dict[str, object]:
    """The result of the job; all but facts are found under a lease on the machine."""
    if isinstance(job.task, Facts):
        return job.task.result(folder, {})
    _check_private(folder)
    with leased(folder / LOCK, job.wait_s):
        _check_files(folder, job.files, "somebody changed it since it was sent")
        _sweep(folder)
        result = job.task.result(folder, job.engines)
        _check_files(folder, dict.fromkeys(job.files), "somebody changed it while it was used")
    return result


@contextmanager
def leased(lock: Path, wait_s: float) -> Iterator[None]:
    """Alone on the machine. A lease dies with its process, so none is ever stale.

    Raises DeviceError where another holds it for `wait_s`, or where it was taken away meanwhile.
    """
    import fcntl  # absent on Windows

    end = time.monotonic() + wait_s
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    holder = os.read(file, LONGEST_LINE).decode("utf-8", "replace")
                    raise DeviceError(
                        f"the device is in use by {holder or 'another process'}; "
                        f"waited {wait_s:.0f} s"
                    ) from error
                time.sleep(LOOK_S)
                continue
            if not _is_at(file, lock):
                continue
            client = os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} for {client or 'this machine'}".encode())
            yield
            if not _is_at(file, lock):
                raise DeviceError(f"the lease was taken away meanwhile: {lock} was replaced")
            return
        finally:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _check_private(folder: Path) -> None:
    try:
        found = folder.lstat()
    except FileNotFoundError as error:
        raise DeviceError(f"{folder} is not there; run again") from error
    foreign = found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if foreign or not stat.S_ISDIR(found.st_mode):
        raise IntegrityError(f"others may write to {folder}: remove it")


def _check_files(folder: Path, files: Mapping[str, str | None], wrong: str) -> None:
    """Hold every file to its name; one just written gets its name now."""
    for name, part in files.items():
        path = folder / (part or name)
        try:
            found = _digest(path)
        except FileNotFoundError as error:
            raise DeviceError(f"{path} is not there any more; run again") from error
        if found != name.partition(".")[0]:
            if part:
                path.unlink()
                raise IntegrityError(f"{path} arrived damaged: look after the disk, run again")
            raise IntegrityError(f"{path}: {wrong}; remove it, and find out who")
        if part:
            _publish(path, folder / name)
        os.utime(folder / name)


def _sweep(folder: Path) -> None:
    """Take away what no job has asked for in days: old engines, and what broken transfers left."""
    now = time.time()
    for path in folder.iterdir():
        old = abs(now - path.lstat().st_mtime) > KEEP_S
        if old and path.name != LOCK and not path.is_dir():
            path.unlink()


@contextmanager
def _new(part: Path) -> Iterator[Path]:
    """A file to be written and published, or else taken away."""
    try:
        yield part
    finally:
        if part.exists():
            part.unlink()


def _publish(part: Path, path: Path) -> None:
    """Rename a file that is on the disk for good."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, CHUNK), b""):
            found.update(chunk)
    return found.hexdigest()


def _loaded(engine: Engine, folder: Path, batch: int) -> Callable[[], object]:
    session = engine.opened(folder)
    from exporters.session import call_on_noise

    return call_on_noise(session, batch)


def _runtime(name: str) -> ModuleType:
    """The module that opens the runtime's engines. Raises DeviceError where a library is absent."""
    try:
        return importlib.import_module(f"exporters.sessions.{name}")
    except (ImportError, MissingExtra) as error:
        raise DeviceError(
            f"{sys.executable} cannot import what {name} needs ({error}): install it on the "
            "device, or name another interpreter in ssh.python"
        ) from error


def _end_with_stdin(done: threading.Event) -> None:
    """Die, with every process started from here, as soon as nobody is connected any more.

    Once it is done it does not: then it is about to end by itself.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), CHUNK):
            pass
        if not done.is_set():
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _end_after(limit_s: float) -> None:
    """Die then, whatever a library is doing."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)


def main() -> int:
    # What libraries print must not get into the answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    done = threading.Event()
    try:
        job = read_job(sys.stdin.buffer.readline())
        _end_after(job.limit_s)
        _end_with_stdin(done)
        result = obey(job, Path.home() / FOLDER)
        text = json.dumps({"nonce": job.nonce, "result": result}, allow_nan=False)
    except Exception as error:  # libraries' errors share no class, and any of them is one line
        done.set()
        known = isinstance(error, SlimgateError)
        line = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
        sys.stderr.write(line[:LONGEST_LINE] + "\n")
        return error.exit_code if isinstance(error, SlimgateError) else DeviceError.exit_code
    done.set()
    answers.write(text)
    answers.close()
    return 0
