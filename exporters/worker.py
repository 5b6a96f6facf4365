"""Measures engines inside a fresh process: one JSON job on stdin, one JSON result on stdout.

Started as `python -P -m exporters.worker`; needs numpy and the runtime, never torch.
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from exporters.board.session import Session, call_on_noise
from exporters.exporter import runtime
from profiles.device import EngineOptions
from profiles.errors import SlimgateError
from profiles.machine import fresh
from profiles.spec import Spec


class EngineFile(Spec):
    """An engine, and what runs it."""

    runtime: str
    options: EngineOptions
    path: str

    def opened(self) -> Session:
        return runtime(self.runtime, self.options).open(Path(self.path))


class LatencyJob(Spec):
    """Time engines interleaved, by name; two names may share a file."""

    engines: dict[str, EngineFile]
    batch: PositiveInt
    seconds: PositiveFloat
    least_samples: PositiveInt
    seed: int
    frame_interval_ms: PositiveFloat | None = None


class StartJob(Spec):
    """Load one engine, and weigh it."""

    engine: EngineFile
    batch: PositiveInt


class CompareJob(Spec):
    """Time many engines shortly, interleaved, by name."""

    engines: dict[str, EngineFile]
    batch: PositiveInt
    rounds: PositiveInt
    seed: int


class Job(Spec):
    """Exactly one of the three."""

    latency: LatencyJob | None = None
    start: StartJob | None = None
    compare: CompareJob | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(one is not None for one in (self.latency, self.start, self.compare)) != 1:
            raise ValueError("a job is latency, start or compare")
        return self

    def engines(self) -> dict[str, EngineFile]:
        """The engines it needs, by name."""
        if self.start:
            return {"engine": self.start.engine}
        job = self.latency or self.compare
        return job.engines if job else {}

    def result(self) -> dict[str, object]:
        """What the job asks for."""
        if self.latency:
            return latency(self.latency)
        if self.compare:
            return compare(self.compare)
        return start(self.start) if self.start else {}


def latency(job: LatencyJob) -> dict[str, object]:
    """As `profiles.machine.fresh.time_engines`."""
    loads = _loads(job.engines, job.batch)
    return fresh.time_engines(
        loads, job.seconds, job.least_samples, job.seed, job.frame_interval_ms
    )


def start(job: StartJob) -> dict[str, object]:
    """As `profiles.machine.fresh.start_engine`."""
    runtime(job.engine.runtime, job.engine.options)  # imports the library
    return fresh.start_engine(partial(_loaded, job.engine, job.batch))


def compare(job: CompareJob) -> dict[str, object]:
    """As `profiles.machine.fresh.compare_engines`."""
    return fresh.compare_engines(_loads(job.engines, job.batch), job.rounds, job.seed)


def _loads(
    engines: Mapping[str, EngineFile], batch: int
) -> dict[str, Callable[[], Callable[[], object]]]:
    return {name: partial(_loaded, engine, batch) for name, engine in engines.items()}


def _loaded(engine: EngineFile, batch: int) -> Callable[[], object]:
    return call_on_noise(engine.opened(), batch)


def main() -> int:
    job = Job.model_validate_json(sys.stdin.read())
    try:
        result = job.result()
    except SlimgateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
