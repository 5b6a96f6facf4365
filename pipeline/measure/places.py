"""Where engines are measured: this machine or a board, each job in a fresh process of it."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exporters.arrays import FloatArray
from exporters.board.session import first_output
from exporters.exporter import reported_distributions, runtime
from exporters.worker import EngineFile, Job
from profiles.device import Ssh
from profiles.errors import DeviceError
from profiles.host import Host, this_host

TIMEOUT_S = 900


class Place(Protocol):
    """A machine that runs engines. Everything raises DeviceError where it does not answer."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def host(self) -> Host:
        """What the machine tells of itself."""
        ...

    def answer(self, job: Job) -> str:
        """The JSON that a fresh process gives for a job; engines are files of this machine."""
        ...

    def layers_ms(self, engine: EngineFile, batch: int) -> Mapping[str, float]:
        """The time of each layer, to be compared among them; empty where none are told."""
        ...

    def outputs(self, engine: EngineFile, batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """The first output [n, ...] of the engine for every batch of inputs [n, ...]."""
        ...


@dataclass(frozen=True)
class ThisMachine:
    """This machine."""

    @property
    def name(self) -> str:
        return "this machine"

    def host(self) -> Host:
        return this_host(reported_distributions())

    def answer(self, job: Job) -> str:
        # `-P` keeps the current folder off the search path.
        command = [sys.executable, "-P", "-m", "exporters.worker"]
        text = job.model_dump_json()
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"measuring took more than {TIMEOUT_S} s and was stopped") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise DeviceError(f"the measuring process failed: {lines[-1]}")
        return done.stdout

    def layers_ms(self, engine: EngineFile, batch: int) -> Mapping[str, float]:
        exporter = runtime(engine.runtime, engine.options)
        with suppress(Exception):  # no limit is on them, and they want room for a profile
            return exporter.layer_times_ms(Path(engine.path), batch)
        return {}

    def outputs(self, engine: EngineFile, batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
        session = engine.opened()
        for batch in batches:
            yield first_output(session, batch)


@contextmanager
def place_of(ssh: Ssh | None) -> Iterator[Place]:
    """The machine at that address, or this one, reached and let go again."""
    if ssh is None:
        yield ThisMachine()
        return
    from pipeline.measure.board import reached

    with reached(ssh) as remote:
        yield remote
