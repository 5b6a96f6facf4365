"""A measurement whose every figure is known by hand, to be spoiled one thing at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from profiles.budget import Budget
from profiles.device import DeviceProfile, Identity
from profiles.gate import Check, EngineForDevice, Verdict, judge
from profiles.host import Host
from profiles.machine.conditions import Conditions
from profiles.measurement import (
    CallTimes,
    EngineEvidence,
    LatencyRun,
    Measurement,
    StartRun,
)
from profiles.waiver import AcceptedWaivers, Waiver

NAME = "box"
DEVICE = DeviceProfile(description="a test", identity=Identity(machine="x86_64"))
SHA = "5" * 64
MS = 1_000_000
MIB = 1 << 20
METRICS = tuple(Budget.model_fields)
COUNTS = (
    "macs",
    "macs_ratio",
    "parameters",
    "parameters_ratio",
    "engine_size_mib",
    "engine_size_ratio",
)
RATIOS = ("latency_p50_ratio", "latency_p95_ratio")
WALLS = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "throughput_per_s", "energy_mj")
FRAMES = ("frame_p95_ms", "frame_p99_ms")
TIMES = (*WALLS, *RATIOS, *FRAMES)


def calls(wall_ms: float, cpu_ms: float, blocks: Sequence[int] = (30, 30)) -> CallTimes:
    """Calls that all take as long."""
    count = sum(blocks)
    wall, cpu = round(wall_ms * MS), round(cpu_ms * MS)
    return CallTimes(wall_ns=(wall,) * count, cpu_ns=(cpu,) * count, blocks=tuple(blocks))


def run(shipped_ms: float = 2.0, control_ms: float = 4.0) -> LatencyRun:
    """A process: dense takes 5 ms of wall and 4 ms of CPU time, shipped twice its CPU time."""
    return LatencyRun(
        dense=calls(5, 4),
        control=calls(5, control_ms),
        shipped=calls(2 * shipped_ms, shipped_ms),
        frames_ns=(round(3 * shipped_ms * MS),) * 60,
        energy_mj=10 * shipped_ms,
        warm=True,
        conditions=(look(0), look(2)),
        frame_conditions=(look(2), look(4)),
        energy_conditions=(look(4), look(5)),
    )


def look(at_s: float, others_cpu_s: float | None = 9, throttle_events: int = 3) -> Conditions:
    """The conditions of a machine that is left alone."""
    return Conditions(
        at_s=at_s,
        load_1min=0.5,
        others_cpu_s=others_cpu_s,
        mhz=2000,
        governor="performance",
        temperature_c=50,
        throttled=False,
        throttle_events=throttle_events,
    )


def weighed(peak_mib: float = 60.0, baseline_mib: float = 40.0, load_ms: float = 8) -> StartRun:
    return StartRun(
        load_ms=load_ms,
        first_ms=2,
        baseline_mib=baseline_mib,
        peak_mib=peak_mib,
        steady_mib=peak_mib - 5,
        method="VmRSS, VmHWM",
    )


def engine(sha256: str, macs: int, scores: Sequence[float]) -> EngineEvidence:
    return EngineEvidence(
        sha256=sha256,
        parity_error=1e-6,
        size_bytes=macs * MIB // 500,
        macs=macs,
        parameters=macs // 10,
        scores=tuple(scores),
        samples_sha256="9" * 64,
        starts=(weighed(),) * 5,
        layers_ms={},
    )


def measurement() -> Measurement:
    """500 of 1000 MACs, 50 parameters, 1 MiB, 4 ms, half the CPU time, 20 MiB; 40 of 400 lost.

    6 ms a frame, 10 ms to the first answer, 20 mJ a call.
    """
    return Measurement(
        device=NAME,
        host=Host(
            machine="x86_64", model="a box", cpu="a CPU", cores=1, system="Linux", versions={}
        ),
        threads=1,
        batch=1,
        clock="cpu",
        labels=(0, 1) * 200,
        dense=engine("d" * 64, 1000, [1.0] * 400),
        shipped=engine(SHA, 500, [0.0] * 40 + [1.0] * 360),
        latency=(run(),) * 5,
    )


@dataclass(frozen=True)
class Case:
    """All that a judgement depends on."""

    measurement: Measurement
    limits: Mapping[str, float]
    device_name: str = NAME
    device: DeviceProfile = DEVICE
    sha256: str = SHA

    def verdict(self, waivers: Sequence[Waiver] = (), today: date = date.max) -> Verdict:
        budget = Budget.model_validate(self.limits)
        engine = EngineForDevice(self.sha256, self.device_name, self.device)
        return judge(self.measurement, budget, engine, AcceptedWaivers(tuple(waivers), today))

    def check(self, waivers: Sequence[Waiver] = (), today: date = date.max) -> Check:
        (check,) = self.verdict(waivers, today).checks
        return check

    def timed(self, runs: Sequence[LatencyRun]) -> "Case":
        return replace(
            self, measurement=self.measurement.model_copy(update={"latency": tuple(runs)})
        )

    def weighed(self, runs: Sequence[StartRun]) -> "Case":
        return self.shipped("starts", tuple(runs))

    def scored(self, scores: Sequence[float]) -> "Case":
        return self.shipped("scores", tuple(scores))

    def shipped(self, field: str, value: object) -> "Case":
        """The case with one field of the shipped engine replaced, and not validated."""
        shipped = self.measurement.shipped.model_copy(update={field: value})
        return replace(self, measurement=self.measurement.model_copy(update={"shipped": shipped}))

    def limited(self, metric: str, limit: float) -> "Case":
        return replace(self, limits={**self.limits, metric: limit})


LOOSE: Mapping[str, float] = {
    "top1_drop": 0.2,
    "top1_min": 0.8,
    "parity_error": 1e-5,
    "macs": 600,
    "macs_ratio": 0.6,
    "parameters": 60,
    "parameters_ratio": 0.6,
    "engine_size_mib": 1.5,
    "engine_size_ratio": 0.7,
    "latency_p50_ms": 4.5,
    "latency_p95_ms": 4.5,
    "latency_p99_ms": 4.5,
    "latency_p50_ratio": 0.6,
    "latency_p95_ratio": 0.6,
    "frame_p95_ms": 6.5,
    "frame_p99_ms": 6.5,
    "first_inference_ms": 12,
    "peak_memory_mib": 25,
    "peak_memory_ratio": 1.2,
    "steady_memory_mib": 20,
    "throughput_per_s": 200,
    "energy_mj": 25,
}


def loose(*metrics: str) -> Case:
    return Case(measurement(), {metric: LOOSE[metric] for metric in metrics})
