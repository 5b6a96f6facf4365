"""Measurement: the raw samples one device gave, and the figures derived from them."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from profiles.host import Host
from profiles.spec import Spec
from profiles.statistics import Interval, exact, log_mean_bounds, paired_drop

NS_PER_MS = 1e6
MIB = 1 << 20

# What numpy and a float can hold; a longer number is no measurement.
Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 63)]
Count = Annotated[int, Field(gt=0, lt=1 << 63)]


class Evidence(Spec):
    """A Spec that may hold NaN: it is evidence of a fault, and for the gate to refuse."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")


class CallTimes(Evidence):
    """One time a call, in order: wall and process CPU time, nanoseconds."""

    wall_ns: tuple[Nanoseconds, ...]
    cpu_ns: tuple[Nanoseconds, ...]
    blocks: tuple[Count, ...]
    """The number of calls in each block; the n-th blocks of all engines are neighbours in time."""

    def is_whole(self) -> bool:
        """Whether times and blocks agree in number."""
        return len(self.wall_ns) == len(self.cpu_ns) == sum(self.blocks) > 0


class LatencyRun(Evidence):
    """One fresh process: dense and shipped interleaved, and dense once more as a control."""

    dense: CallTimes
    control: CallTimes
    shipped: CallTimes
    warm: bool
    """Whether the warm-up settled before its time limit."""
    load_1min: float

    def is_whole(self) -> bool:
        """Whether all three are, with as many blocks."""
        calls = (self.dense, self.control, self.shipped)
        return all(c.is_whole() for c in calls) and len({len(c.blocks) for c in calls}) == 1


class MemoryRun(Evidence):
    """One fresh process that loads one engine and runs it a few times, MiB of resident memory.

    `baseline` is the process with only the runtime imported; `peak` and `steady` include it.
    """

    baseline_mib: float
    peak_mib: float
    steady_mib: float
    method: str


class EngineEvidence(Evidence):
    """What is known of one engine file."""

    sha256: str
    unverified: str = ""
    """Why its outputs were never compared with the network's; empty where they were."""
    size_bytes: Count
    macs: Count
    parameters: Count
    scores: tuple[float, ...]
    """The task's metric for each validation sample, from this very engine."""
    memory: tuple[MemoryRun, ...]


class Measurement(Evidence):
    """Everything the gate may use: raw samples of one device, statistics derived from them."""

    schema_version: Literal[1] = 1
    device: str
    host: Host
    threads: int
    dense: EngineEvidence
    shipped: EngineEvidence
    latency: tuple[LatencyRun, ...]


def wall_ms(calls: Sequence[CallTimes], percentile: float) -> Interval:
    """The percentile of each process's wall times, ms, with bounds over the processes."""
    return log_mean_bounds([_percentile(c.wall_ns, percentile) / NS_PER_MS for c in calls])


def cpu_ratio(above: Sequence[CallTimes], below: Sequence[CallTimes]) -> Interval:
    """The ratio of CPU times inside each process, with bounds over the processes.

    The median over pairs of neighbouring blocks of the ratio of their medians: a machine that
    changes speed during a process does so for both.
    """
    return log_mean_bounds([_paired(a, b) for a, b in zip(above, below, strict=True)])


def peak_mib(runs: Sequence[MemoryRun]) -> Interval:
    """What loading and running adds to a process, MiB: the worst run, and 5 % for the next one."""
    if not runs:
        return exact(float("nan"))
    added = [run.peak_mib - run.baseline_mib for run in runs]
    # numpy's max and min keep NaN, which Python's lose.
    return Interval(float(np.max(added)), float(np.min(added)), 1.05 * float(np.max(added)))


def top1_drop(measurement: Measurement) -> Interval:
    """The loss of the task's metric, as a fraction, paired by sample."""
    return paired_drop(measurement.dense.scores, measurement.shipped.scores)


def figures(engine: EngineEvidence, calls: Sequence[CallTimes]) -> dict[str, float]:
    """The figures people compare, for one engine."""
    steady = [run.steady_mib - run.baseline_mib for run in engine.memory]
    return {
        "top1": float(np.mean(engine.scores)) if engine.scores else float("nan"),
        "macs": engine.macs,
        "flops": 2 * engine.macs,
        "parameters": engine.parameters,
        "engine_size_mib": engine.size_bytes / MIB,
        "latency_p50_ms": wall_ms(calls, 50).measured,
        "latency_p95_ms": wall_ms(calls, 95).measured,
        "cpu_p50_ms": log_mean_bounds([_percentile(c.cpu_ns, 50) for c in calls]).measured / 1e6,
        "peak_memory_mib": peak_mib(engine.memory).measured,
        "steady_memory_mib": float(np.median(steady)) if steady else float("nan"),
    }


def _paired(above: CallTimes, below: CallTimes) -> float:
    if not (above.is_whole() and below.is_whole() and len(above.blocks) == len(below.blocks)):
        return float("nan")
    upper, lower = _block_medians(above), _block_medians(below)
    return float(np.median(upper / lower)) if lower.all() else float("nan")


def _block_medians(times: CallTimes) -> npt.NDArray[np.float64]:
    ends = np.cumsum(times.blocks)[:-1]
    return np.array([np.median(block) for block in np.split(np.array(times.cpu_ns), ends)])


def _percentile(values: Sequence[int], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if values else float("nan")
