"""The program that runs on a board: one JSON job on stdin, one JSON answer on stdout.

Needs Python 3.8, numpy and the runtime; `exporters.board_program` packs it with what it imports.
Files lie in ~/.slimgate under names that begin with their SHA-256, which is checked before and
after they are used. An error is one line on stderr and its own exit code: 7 for a file that is
not the one that was sent, 5 where a runtime cannot build an engine, 4 for anything else. It dies
when its stdin ends, and after `Job.limit_s`.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Union

from exporters.board.files import (
    CHUNK,
    LONGEST_LINE,
    check_files,
    check_private,
    deleted_unless_published,
    file_digest,
    leased,
    publish,
    sweep,
)
from exporters.board.library_calls import library_errors_as
from profiles.errors import (
    DeviceError,
    MissingExtra,
    SlimgateError,
    StageError,
)
from profiles.machine import fresh
from profiles.machine.facts import machine_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from exporters.board.session import Session

FOLDER = ".slimgate"
"""The folder for files, in the user's home."""


@dataclass(frozen=True)
class Engine:
    """A stored engine, and how it is built and opened: `exporters.board.session.Options`."""

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
        """As `profiles.machine.fresh.time_engines`."""
        loads = _loads(engines, folder, self.batch)
        return fresh.time_engines(
            loads, self.seconds, self.least_samples, self.seed, self.frame_interval_ms
        )


@dataclass(frozen=True)
class Compare:
    """Time many engines shortly, interleaved, by name."""

    batch: int
    rounds: int
    seed: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """As `profiles.machine.fresh.compare_engines`."""
        loads = _loads(engines, folder, self.batch)
        return fresh.compare_engines(loads, self.rounds, self.seed)


@dataclass(frozen=True)
class Start:
    """Load one engine, and weigh it."""

    batch: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """As `profiles.machine.fresh.start_engine`."""
        (engine,) = engines.values()
        _runtime(engine.runtime)  # imports the library
        return fresh.start_engine(partial(_loaded, engine, folder, self.batch))


@dataclass(frozen=True)
class Layers:
    """Tell the layers of one engine apart by their times, if its runtime does."""

    batch: int

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """The median time of each, ms; none where the runtime does not tell."""
        (engine,) = engines.values()
        tell = getattr(_runtime(engine.runtime), "layer_times_ms", None)
        found: dict[str, float] = {}
        with suppress(Exception):  # no limit is on them, and they want room for a profile
            found = tell(str(folder / engine.name), engine, self.batch) if tell else {}
        return {"layers_ms": found}


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

        from exporters.board.session import first_output

        inputs = np.load(folder / self.inputs, mmap_mode="r", allow_pickle=False)
        parts = [
            first_output(session, np.array(inputs[start : start + self.batch]))
            for start in range(0, len(inputs), self.batch)
        ]
        with deleted_unless_published(folder / f"{self.inputs}.out.part") as part:
            with part.open("wb") as file:
                np.save(file, np.concatenate(parts), allow_pickle=False)
            found = file_digest(part)
            publish(part, folder / outputs_name(self.inputs))
        return {"sha256": found}


@dataclass(frozen=True)
class Build:
    """Build one engine of a stored ONNX model; what it is to be called is not known before."""

    model: str

    def result(self, folder: Path, engines: Mapping[str, Engine]) -> dict[str, object]:
        """The SHA-256 of the engine, under which it is stored, and what its runtime tells."""
        (engine,) = engines.values()
        runtime = _runtime(engine.runtime)
        with deleted_unless_published(folder / f"{self.model}.{engine.runtime}.part") as part:
            with library_errors_as(StageError, f"{engine.runtime} cannot build it"):
                facts = runtime.build_engine((folder / self.model).read_bytes(), str(part), engine)
            found = file_digest(part)
            publish(part, folder / found)
        return {"sha256": found, "facts": facts}


Task = Union[  # noqa: UP007  # Python 3.8 has no | for types
    Facts, Latency, Compare, Start, Layers, Outputs, Build
]
TASKS = {
    "facts": Facts,
    "latency": Latency,
    "compare": Compare,
    "start": Start,
    "layers": Layers,
    "outputs": Outputs,
    "build": Build,
}


@dataclass(frozen=True)
class Job:
    """One request: a task, and what it needs."""

    nonce: str
    """A random text that comes back in the answer, so that it is known to be to this job."""
    limit_s: float
    """Seconds after which the program dies."""
    wait_s: float
    """Seconds to wait for the lease, at most."""
    files: dict[str, str | None]
    """The stored files that are needed; for one just written, the name it was written under."""
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


def run_job(job: Job, folder: Path) -> dict[str, object]:
    """The result of the job; all but facts are found under a lease on the machine."""
    if isinstance(job.task, Facts):
        return job.task.result(folder, {})
    check_private(folder)
    with leased(folder, job.wait_s):
        check_files(folder, job.files, "somebody changed it since it was sent")
        sweep(folder)
        result = job.task.result(folder, job.engines)
        check_files(folder, dict.fromkeys(job.files), "somebody changed it while it was used")
    return result


def _loads(
    engines: Mapping[str, Engine], folder: Path, batch: int
) -> dict[str, Callable[[], Callable[[], object]]]:
    return {name: partial(_loaded, engine, folder, batch) for name, engine in engines.items()}


def _loaded(engine: Engine, folder: Path, batch: int) -> Callable[[], object]:
    session = engine.opened(folder)
    from exporters.board.session import call_on_noise

    return call_on_noise(session, batch)


def _runtime(name: str) -> ModuleType:
    """The module that builds and opens engines. Raises DeviceError where a library is absent."""
    try:
        return importlib.import_module(f"exporters.board.sessions.{name}")
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
        result = run_job(job, Path.home() / FOLDER)
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
