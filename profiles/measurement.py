"""Measurement: the raw samples one device gave, and the figures derived from them."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from profiles.host import Host
from profiles.machine.conditions import Conditions
from profiles.spec import Spec
from profiles.statistics import Interval, exact, median_bounds, paired_drop, quantile_bounds

NS_PER_MS = 1e6
MIB = 1 << 20

# What numpy and a float can hold; a longer number is no measurement.
Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 63)]
Count = Annotated[int, Field(gt=0, lt=1 << 63)]
Clock = Literal["cpu", "wall"]


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

    def by(self, clock: Clock) -> tuple[int, ...]:
        """The times on one clock, nanoseconds."""
        return self.cpu_ns if clock == "cpu" else self.wall_ns


class LatencyRun(Evidence):
    """One fresh process: dense and shipped interleaved, and dense once more as a control."""

    dense: CallTimes
    control: CallTimes
    shipped: CallTimes
    frames_ns: tuple[Nanoseconds, ...]
    """Wall time of the shipped engine called at a fixed frame interval; empty if it was not."""
    energy_mj: float | None
    """Of one call of the shipped engine, back to back; None where the machine does not count it."""
    warm: bool
    """Whether the warm-up settled before its time limit."""
    conditions: tuple[Conditions, ...]
    """Before loading, before timing, between rounds, and after the last."""
    frame_conditions: tuple[Conditions, ...] = ()
    """Before and after the calls at the frame interval; none counts as not known."""
    energy_conditions: tuple[Conditions, ...] = ()
    """Before and after the calls whose energy is counted; none counts as not known."""

    def is_whole(self) -> bool:
        """Whether all three are, with as many blocks, and conditions from before and after."""
        calls = (self.dense, self.control, self.shipped)
        same = all(c.is_whole() for c in calls) and len({len(c.blocks) for c in calls}) == 1
        return same and len(self.conditions) > 1


class StartRun(Evidence):
    """One fresh process that loads one engine and runs it a few times, MiB of resident memory.

    `baseline` is the process with only the runtime imported; `peak` and `steady` include it.
    """

    load_ms: float
    first_ms: float
    """The first call, after loading."""
    baseline_mib: float
    peak_mib: float
    steady_mib: float
    method: str


class EngineEvidence(Evidence):
    """What is known of one engine file."""

    sha256: str
    unverified: str = ""
    """Why its outputs were never compared with the network's; empty where they were."""
    parity_error: float
    """Largest relative difference of its outputs from its source's; NaN where never compared."""
    size_bytes: Count
    macs: Count
    parameters: Count
    scores: tuple[float, ...]
    """The task's metric for each validation sample, from this very engine."""
    samples_sha256: str
    """Of the validation samples' inputs; figures pair by sample only where it is the same."""
    starts: tuple[StartRun, ...]
    layers_ms: dict[str, float]
    """The time of each layer, for comparison among them; empty where the runtime does not tell."""


class Measurement(Evidence):
    """Everything the gate may use: raw samples of one device, statistics derived from them."""

    schema_version: Literal[2] = 2
    device: str
    host: Host
    threads: int
    batch: Count
    clock: Clock
    """What ratios of times are of: CPU time, or wall time where that says nothing of latency."""
    labels: tuple[int, ...]
    """The class of each validation sample; empty where samples have none."""
    dense: EngineEvidence
    shipped: EngineEvidence
    latency: tuple[LatencyRun, ...]


def wall_ms(calls: Sequence[CallTimes], percentile: float) -> Interval:
    """The percentile of wall times, ms, with bounds over the processes.

    From p95 on also over the calls, all processes' together, by order statistics: the wider bound
    counts on either side.
    """
    own = wall_ms_of_each(calls, percentile)
    return _tail(median_bounds(own), [c.wall_ns for c in calls], percentile)


def wall_ms_of_each(calls: Sequence[CallTimes], percentile: float) -> list[float]:
    """The percentile of each process's wall times, ms."""
    return [_percentile(c.wall_ns, percentile) / NS_PER_MS for c in calls]


def cpu_ms(calls: Sequence[CallTimes], percentile: float) -> Interval:
    """The percentile of the process's CPU times, ms, with bounds over the processes."""
    found = median_bounds([_percentile(c.cpu_ns, percentile) for c in calls])
    return Interval(found.measured / NS_PER_MS, found.lower / NS_PER_MS, found.upper / NS_PER_MS)


def frames_ms(runs: Sequence[LatencyRun], percentile: float) -> Interval:
    """The same of the calls at a fixed frame interval."""
    own = [_percentile(run.frames_ns, percentile) / NS_PER_MS for run in runs]
    return _tail(median_bounds(own), [run.frames_ns for run in runs], percentile)


def time_ratio(above: Sequence[CallTimes], below: Sequence[CallTimes], clock: Clock) -> Interval:
    """The ratio of times inside each process, with bounds over the processes.

    The median over pairs of neighbouring blocks of the ratio of their medians: a machine that
    changes speed during a process does so for both.
    """
    return median_bounds([_paired(a, b, clock) for a, b in zip(above, below, strict=True)])


def p95_ratio(above: Sequence[CallTimes], below: Sequence[CallTimes], clock: Clock) -> Interval:
    """The ratio of the 95th percentiles inside each process, with bounds over the processes."""
    pairs = zip(above, below, strict=True)
    return median_bounds(
        [_percentile(a.by(clock), 95) / _percentile(b.by(clock), 95) for a, b in pairs]
    )


def throughput_per_s(calls: Sequence[CallTimes], batch: int) -> Interval:
    """Samples a second, back to back, with bounds over the processes."""
    busy_s = [sum(c.wall_ns) / 1e9 for c in calls]
    counts = [len(c.wall_ns) * batch for c in calls]
    return median_bounds([n / (s or np.nan) for n, s in zip(counts, busy_s, strict=True)])


def peak_mib(starts: Sequence[StartRun]) -> Interval:
    """What loading and running adds to a process, MiB: the worst run, and 5 % for the next one."""
    if not starts:
        return exact(float("nan"))
    added = peak_mib_of_each(starts)
    # numpy's max and min keep NaN, which Python's lose.
    return Interval(float(np.max(added)), float(np.min(added)), 1.05 * float(np.max(added)))


def peak_mib_of_each(starts: Sequence[StartRun]) -> list[float]:
    """What loading and running adds to each process, MiB."""
    return [run.peak_mib - run.baseline_mib for run in starts]


def first_inference_ms(starts: Sequence[StartRun]) -> Interval:
    """From the file to the first answer: loading and the first call, over the processes."""
    return median_bounds(first_inference_ms_of_each(starts))


def first_inference_ms_of_each(starts: Sequence[StartRun]) -> list[float]:
    """From the file to the first answer of each process, ms."""
    return [run.load_ms + run.first_ms for run in starts]


def energy_mj(runs: Sequence[LatencyRun]) -> Interval:
    """Energy of one call, mJ, of all that the machine counts, over the processes.

    NaN where a process has none, or not more than 0: that counter is broken.
    """
    found = [run.energy_mj for run in runs]
    return median_bounds([mj if mj is not None and mj > 0 else math.nan for mj in found])


def top1_drop(measurement: Measurement) -> Interval:
    """The loss of the task's metric, as a fraction, paired by sample."""
    if measurement.dense.samples_sha256 != measurement.shipped.samples_sha256:
        return exact(float("nan"))
    return paired_drop(measurement.dense.scores, measurement.shipped.scores)


def _tail(over_runs: Interval, calls: Sequence[Sequence[int]], percentile: float) -> Interval:
    if percentile < 95:
        return over_runs
    pooled = [ns / NS_PER_MS for one in calls for ns in one]
    over_calls = quantile_bounds(pooled, percentile / 100)
    return Interval(
        over_runs.measured,
        float(np.minimum(over_runs.lower, over_calls.lower)),
        float(np.maximum(over_runs.upper, over_calls.upper)),
    )


def _paired(above: CallTimes, below: CallTimes, clock: Clock) -> float:
    if not (above.is_whole() and below.is_whole() and len(above.blocks) == len(below.blocks)):
        return float("nan")
    upper, lower = _block_medians(above, clock), _block_medians(below, clock)
    return float(np.median(upper / lower)) if lower.all() and upper.all() else float("nan")


def _block_medians(times: CallTimes, clock: Clock) -> npt.NDArray[np.float64]:
    ends = np.cumsum(times.blocks)[:-1]
    return np.array([np.median(block) for block in np.split(np.array(times.by(clock)), ends)])


def _percentile(values: Sequence[int], percentile: float) -> float:
    """NaN without values, and where no time passed: that clock is broken."""
    found = float(np.percentile(values, percentile)) if values else 0.0
    return found or float("nan")
