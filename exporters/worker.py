"""Measures engines inside a fresh process: one JSON job on stdin, one JSON result on stdout.

Started as `python -P -m exporters.worker`; needs numpy and the runtime, never torch.
"""

import json
import sys
from collections.abc import Callable
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


class Job(Spec):
    """Exactly one of the two."""

    latency: LatencyJob | None = None
    start: StartJob | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.latency is None) == (self.start is None):
            raise ValueError("a job is either latency or start")
        return self

    def engines(self) -> dict[str, EngineFile]:
        """The engines it needs, by name."""
        if self.latency:
            return self.latency.engines
        return {"engine": self.start.engine} if self.start else {}


def latency(job: LatencyJob) -> dict[str, object]:
    """As `profiles.machine.fresh.time_engines`."""
    loads = {name: partial(_loaded, engine, job.batch) for name, engine in job.engines.items()}
    return fresh.time_engines(
        loads, job.seconds, job.least_samples, job.seed, job.frame_interval_ms
    )


def start(job: StartJob) -> dict[str, object]:
    """As `profiles.machine.fresh.start_engine`."""
    runtime(job.engine.runtime, job.engine.options)  # imports the library
    return fresh.start_engine(partial(_loaded, job.engine, job.batch))


def _loaded(engine: EngineFile, batch: int) -> Callable[[], object]:
    return call_on_noise(engine.opened(), batch)


def main() -> int:
    job = Job.model_validate_json(sys.stdin.read())
    try:
        result = latency(job.latency) if job.latency else start(job.start) if job.start else {}
    except SlimgateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
