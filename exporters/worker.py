"""Measures engines inside a fresh process: one JSON job on stdin, one JSON result on stdout.

Started as `python -P -m exporters.worker`; needs numpy and the runtime, never torch.
"""

import json
import os
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from exporters.base import Array, Session, runtime
from profiles.device import EngineOptions
from profiles.errors import SlimgateError
from profiles.latency import Call, interleave, warm_up
from profiles.memory import reset_peak, resident
from profiles.spec import Spec

WARM_UP_LIMIT_S = 20.0
MEMORY_CALLS = 5


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
    seconds: PositiveFloat
    least_samples: PositiveInt
    seed: int


class MemoryJob(Spec):
    """Weigh one engine."""

    engine: EngineFile


class Job(Spec):
    """Exactly one of the two."""

    latency: LatencyJob | None = None
    memory: MemoryJob | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.latency is None) == (self.memory is None):
            raise ValueError("a job is either latency or memory")
        return self


def latency(job: LatencyJob) -> dict[str, object]:
    """Samples of each engine by name, whether the warm-up settled, the load average."""
    calls = [_call(engine.opened()) for engine in job.engines.values()]
    warm = [warm_up(call, WARM_UP_LIMIT_S) for call in calls]
    timed = interleave(calls, job.seconds, job.least_samples, random.Random(job.seed))
    samples = {name: asdict(times) for name, times in zip(job.engines, timed, strict=True)}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {**samples, "warm": all(warm), "load_1min": load}


def memory(job: MemoryJob) -> dict[str, object]:
    """Resident memory before loading, at its peak, and after a few calls, MiB."""
    runtime(job.engine.runtime, job.engine.options)  # the library's own memory is no engine's
    reset_peak()
    baseline = resident()
    call = _call(job.engine.opened())
    for _ in range(MEMORY_CALLS):
        call()
    after = resident()
    return {
        "baseline_mib": baseline.now_mib,
        "peak_mib": after.peak_mib,
        "steady_mib": after.now_mib,
        "method": after.method,
    }


def _call(session: Session) -> Call:
    """One run on fixed random input: a batch of one where the batch is free."""
    generator = np.random.default_rng(0)
    feed: dict[str, Array] = {
        spec.name: generator.standard_normal([d or 1 for d in spec.shape]).astype(spec.dtype)
        for spec in session.inputs
    }
    return lambda: session.run(feed)


def main() -> int:
    job = Job.model_validate_json(sys.stdin.read())
    try:
        result = latency(job.latency) if job.latency else memory(job.memory) if job.memory else {}
    except SlimgateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
