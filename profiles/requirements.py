"""Requirements: what the samples behind a figure must be, or the figure counts for nothing."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from profiles.looks import elapsed_s, others_cores, tells_throttling_alike, was_throttled
from profiles.machine.conditions import Conditions
from profiles.measurement import Clock, LatencyRun, Measurement, StartRun, time_ratio
from profiles.statistics import are_counts, score_bounds

Looks = Sequence[Conditions]
"""Of one stretch of time, in order."""
MIN_PROCESSES = 5
"""The fewest processes that bound a median: see `profiles.statistics.median_bounds`."""
MIN_SAMPLES = {95: 59, 99: 299}
"""The fewest calls from which a percentile has a 95 % bound: 1 - 0.95**59 and 1 - 0.99**299."""
MAX_CONTROL_ERROR = 0.01
"""How far the same engine timed twice may differ before a session's times are void."""
SPARE_CORES = 0.1
"""How much more work than processors there may be before wall times are void."""
MIN_STARTS = 3
"""The fewest starts that tell the memory of an engine."""


@dataclass(frozen=True)
class Requirement:
    """What a figure asks of the samples behind it."""

    fault: Callable[[Measurement], str]
    """Says what is wrong with the samples and what to do; an empty text where nothing is."""
    calls_in_all: int = 0
    """The calls that are needed, counted over all processes."""
    calls_per_process: int = 0
    """The calls that are needed in every single process."""
    of_starts: bool = False
    """Whether they come from processes that start an engine."""


def control_error(runs: Sequence[LatencyRun], clock: Clock) -> float:
    """How far the dense engine timed against itself is from 1; NaN without samples."""
    same = time_ratio([run.control for run in runs], [run.dense for run in runs], clock)
    return abs(same.measured - 1)


def percentile_of_calls(percentile: int) -> Requirement:
    """Enough calls, back to back, for a bound on a percentile of their wall times."""

    def fault(measurement: Measurement) -> str:
        calls = sum(len(run.shipped.wall_ns) for run in measurement.latency)
        return _wall_time_fault(measurement) or _too_few_calls(calls, percentile)

    return Requirement(fault, calls_in_all=MIN_SAMPLES[percentile])


def percentile_of_frames(percentile: int) -> Requirement:
    """Enough calls at the fixed frame interval for a bound on a percentile of their wall times."""

    def fault(measurement: Measurement) -> str:
        counts = [len(run.frames_ns) for run in measurement.latency]
        if not all(counts):
            return "not measured at a fixed frame interval; set measure.frame_interval_ms"
        return (
            _wall_time_fault(measurement)
            or _fault_meanwhile([run.frame_conditions for run in measurement.latency], measurement)
            or _too_few_calls(sum(counts), percentile)
        )

    return Requirement(fault, calls_in_all=MIN_SAMPLES[percentile])


def _time_fault(measurement: Measurement) -> str:
    runs = measurement.latency
    if len(runs) < MIN_PROCESSES:
        return (
            f"too few processes: {len(runs)} were timed, {MIN_PROCESSES} are needed; measure again"
        )
    if not all(run.is_whole() for run in runs):
        return "samples are missing; measure again"
    if not all(run.warm for run in runs):
        return "the warm-up did not settle; free the machine and measure again"
    throttling = _throttling_fault([run.conditions for run in runs])
    if throttling:
        return throttling
    error = control_error(runs, measurement.clock)
    if not error <= MAX_CONTROL_ERROR:
        return (
            f"timing noise: the dense engine differs from itself by {100 * error:.1f} % "
            f"({100 * MAX_CONTROL_ERROR:.0f} % allowed); free the machine and measure again"
        )
    return ""


def _wall_time_fault(measurement: Measurement) -> str:
    return _time_fault(measurement) or _crowding_fault(measurement)


def _clock_time_fault(measurement: Measurement) -> str:
    crowding = _crowding_fault(measurement) if measurement.clock == "wall" else ""
    return _time_fault(measurement) or crowding


def _throttling_fault(stretches: Sequence[Looks]) -> str:
    if any(was_throttled(looks) for looks in stretches):
        return "the processor was throttled; cool the device, check its power, measure again"
    if not all(tells_throttling_alike(looks) for looks in stretches):
        return "the machine told only at times whether it was throttled; measure again"
    return ""


def _fault_meanwhile(stretches: Sequence[Looks], measurement: Measurement) -> str:
    """What is wrong with the machine during calls other than those that are timed interleaved."""
    return _throttling_fault(stretches) or _crowding_fault_of(stretches, measurement)


def _crowding_fault(measurement: Measurement) -> str:
    return _crowding_fault_of([run.conditions for run in measurement.latency], measurement)


def _crowding_fault_of(stretches: Sequence[Looks], measurement: Measurement) -> str:
    """Whether there was more to do than processors to do it: wall times then hold waiting.

    A machine that does not tell may have been crowded.
    """
    if not stretches:
        return "no process was timed, so the load of other processes is unknown; measure again"
    faults = (_crowding_fault_meanwhile(looks, measurement) for looks in stretches)
    return next(filter(None, faults), "")


def _crowding_fault_meanwhile(looks: Looks, measurement: Measurement) -> str:
    if len(looks) < 2:
        return "the machine's load was not read before and after the calls; measure again"
    if not 0 < elapsed_s(looks) < math.inf:
        return (
            "the machine's clock did not advance, so the load of other processes is unknown; "
            "measure again"
        )
    others, cores = others_cores(looks), measurement.host.cores
    # Kernels sample CPU time by ticks, so what others used may come out a little below zero.
    least = -SPARE_CORES * measurement.threads
    if others is None or not math.isfinite(others) or others < least:
        return (
            f"the machine ({measurement.host.system}) did not tell the CPU time of other processes "
            "(on Linux: /proc/stat), so wall times may hold waiting; "
            "measure where it is told, or limit ratios of CPU time"
        )
    if measurement.threads + others <= cores + SPARE_CORES:
        return ""
    return (
        f"other processes kept {others:.1f} of {cores} processors busy; "
        "free the machine and measure again"
    )


def _too_few_calls(calls: int, percentile: int) -> str:
    needed = MIN_SAMPLES[percentile]
    if calls >= needed:
        return ""
    return f"{calls} calls were timed, a bound on p{percentile} needs {needed}; measure longer"


def _p95_in_each_process_fault(measurement: Measurement) -> str:
    fewest = min((len(run.shipped.wall_ns) for run in measurement.latency), default=0)
    return _clock_time_fault(measurement) or _too_few_calls(fewest, 95)


def _energy_fault(measurement: Measurement) -> str:
    if any(run.energy_mj is None for run in measurement.latency):
        return (
            "the machine counts no energy, or not for this user (RAPL is for root alone), "
            "or a counter stopped answering; check the counters and measure again"
        )
    return _wall_time_fault(measurement) or _fault_meanwhile(
        [run.energy_conditions for run in measurement.latency], measurement
    )


def _start_time_fault(measurement: Measurement) -> str:
    starts = measurement.shipped.starts
    if len(starts) < MIN_PROCESSES:
        return f"too few starts: {len(starts)}, {MIN_PROCESSES} are needed; raise measure.starts"
    if not all(run.load_ms > 0 and run.first_ms > 0 for run in starts):
        return "a start took no time at all; measure again"
    # Starts tell no conditions of their own; the timed processes ran on the same machine.
    return _fault_meanwhile([run.conditions for run in measurement.latency], measurement)


def _memory_fault(measurement: Measurement) -> str:
    return _memory_of_starts_fault(measurement.shipped.starts)


def _steady_memory_fault(measurement: Measurement) -> str:
    starts = measurement.shipped.starts
    if len(starts) < MIN_PROCESSES:
        return f"too few starts: {len(starts)}, {MIN_PROCESSES} are needed; raise measure.starts"
    stayed = all(run.peak_mib >= run.steady_mib > run.baseline_mib > 0 for run in starts)
    return "" if stayed else "steady memory is not between baseline and peak; measure again"


def _memory_of_both_fault(measurement: Measurement) -> str:
    shipped, dense = measurement.shipped.starts, measurement.dense.starts
    return _memory_of_starts_fault(shipped) or _memory_of_starts_fault(dense)


def _memory_of_starts_fault(starts: Sequence[StartRun]) -> str:
    if len(starts) < MIN_STARTS:
        return f"too few starts: {len(starts)}, {MIN_STARTS} are needed for memory; measure again"
    grew = all(run.peak_mib > run.baseline_mib > 0 for run in starts)
    return "" if grew else "a peak below its own baseline; measure again"


def _scores_fault(measurement: Measurement) -> str:
    dense, shipped = measurement.dense, measurement.shipped
    same = dense.samples_sha256 == shipped.samples_sha256
    if same and len(dense.scores) == len(shipped.scores) > 0:
        return ""
    return "scores are missing, or of other samples than the dense network's; measure again"


def _chance_fault(measurement: Measurement) -> str:
    """Whether the dense network is not shown to answer better than a constant would.

    Only of scores of 0 and 1 for samples of known class can it be told.
    """
    labels, scores = measurement.labels, measurement.dense.scores
    if not labels or len(labels) != len(scores) or not are_counts(scores):
        return ""
    commonest = max(Counter(labels).values()) / len(labels)
    score = score_bounds(scores)
    if score.lower > commonest:
        return ""
    return (
        f"the network that it is compared with scores {score.measured:.4g} "
        f"[{score.lower:.4g}, {score.upper:.4g}], not shown to be better than always answering "
        "the commonest class "
        f"({commonest:.4g}): check its weights, the labels and the preprocessing, or take more "
        "validation samples"
    )


NO_SAMPLES = Requirement(lambda _: "")
"""Of figures that are counted, or whose bounds say by themselves how much the samples tell."""
WALL_TIME = Requirement(_wall_time_fault)
"""Of wall times, and of what is counted meanwhile: the machine is idle but for the engines."""
CLOCK_TIME = Requirement(_clock_time_fault)
"""Of ratios of times on the device's own clock."""
P95_IN_EACH_PROCESS = Requirement(_p95_in_each_process_fault, calls_per_process=MIN_SAMPLES[95])
"""Of ratios of 95th percentiles, which are taken inside each process."""
ENERGY = Requirement(_energy_fault)
SCORES = Requirement(_scores_fault)
BETTER_THAN_CHANCE = Requirement(_chance_fault)
"""Of losses against the dense network: one that knows nothing has nothing to lose."""
START_TIME = Requirement(_start_time_fault, of_starts=True)
"""Of wall times of starts; what the machine was like is told by the timed processes."""
MEMORY = Requirement(_memory_fault, of_starts=True)
STEADY_MEMORY = Requirement(_steady_memory_fault, of_starts=True)
MEMORY_OF_BOTH = Requirement(_memory_of_both_fault, of_starts=True)
"""Of ratios of memory: the dense engine's starts are held to the same as the shipped one's."""
