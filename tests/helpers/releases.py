"""Releases as a run could end with them: simulated samples, real types, the real judge."""

import numpy as np

from exporters.graph.cost import LayerCost
from pipeline.release.bundle import Judged, Release
from pipeline.release.terms import Terms
from pipeline.report.content import ReportContent
from pipeline.store.reports import (
    Baseline,
    CheckReport,
    ExportReport,
    GroupReport,
    PruneReport,
    RecoveryReport,
    RepairReport,
    Trial,
)
from pipeline.store.runner import StageRecord
from profiles.budget import Budget
from profiles.device import DeviceProfile, Identity
from profiles.gate import EngineForDevice, judge
from profiles.host import Host
from profiles.machine.conditions import Conditions
from profiles.measurement import (
    MIB,
    CallTimes,
    EngineEvidence,
    LatencyRun,
    Measurement,
    StartRun,
)

DENSE_SHA, SHIPPED_SHA, SAMPLES_SHA = "d" * 64, "5" * 64, "a" * 64
SAMPLES = 2000
CLASSES = [k % 20 for k in range(SAMPLES)]
VERSIONS = {"slimgate": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.31.1", "torch": "2.15.0"}
EDGE = DeviceProfile(
    description="A camera's processor, one thread of it",
    channel_multiple=16,
    identity=Identity(machine="aarch64"),
)
BUDGET = Budget(
    top1_drop=0.02,
    parity_error=1e-4,
    macs_ratio=0.6,
    engine_size_mib=8,
    latency_p50_ms=9,
    latency_p95_ms=11,
    latency_p50_ratio=0.75,
    peak_memory_mib=64,
)


def look(at_s: float, generator: np.random.Generator) -> Conditions:
    """A board that tells everything but its count of throttling."""
    return Conditions(
        at_s=at_s,
        load_1min=1.0 + 0.1 * float(generator.random()),
        others_cpu_s=100 + 0.02 * at_s,
        mhz=2400.0,
        governor="performance",
        temperature_c=55 + 4 * float(generator.random()),
        throttled=False,
        throttle_events=None,
    )


def calls(median_ms: float, count: int, generator: np.random.Generator) -> CallTimes:
    """Times with a tail to the right, in ten blocks."""
    wall = 1e6 * median_ms * (0.97 + generator.gamma(2.0, 0.018, count))
    wall += (generator.random(count) < 0.005) * 0.6e6 * median_ms
    cpu = 0.99 * wall
    return CallTimes(
        wall_ns=tuple(int(ns) for ns in wall),
        cpu_ns=tuple(int(ns) for ns in cpu),
        blocks=(count // 10,) * 9 + (count - 9 * (count // 10),),
    )


def latency(
    shipped_ms: float = 8.0, processes: int = 8, count: int = 300, paced: bool = False
) -> tuple[LatencyRun, ...]:
    """Processes that differ by a percent; the dense engine takes 14 ms."""
    generator = np.random.default_rng(0)
    runs = []
    for n in range(processes):
        slow = 1 + 0.01 * float(generator.standard_normal())
        frames = calls(1.08 * shipped_ms * slow, count, generator).wall_ns if paced else ()
        runs.append(
            LatencyRun(
                dense=calls(14 * slow, count, generator),
                control=calls(14 * slow, count, generator),
                shipped=calls(shipped_ms * slow, count, generator),
                frames_ns=frames,
                energy_mj=None,
                warm=True,
                conditions=tuple(look(60 * n + 10 * k, generator) for k in range(6)),
            )
        )
    return tuple(runs)


def starts(added_mib: float) -> tuple[StartRun, ...]:
    return tuple(
        StartRun(
            load_ms=40.0 + n,
            first_ms=20.0,
            baseline_mib=52 + 0.3 * n,
            peak_mib=52 + 0.3 * n + added_mib,
            steady_mib=52 + 0.3 * n + 0.9 * added_mib,
            method="VmRSS, VmHWM",
        )
        for n in range(5)
    )


def measurement(device: str = "camera", shipped_ms: float = 8.0) -> Measurement:
    """Half of the MACs for 0.57 of the time; 30 of 2,000 answers lost and 18 won."""
    scores = [float(k % 10 != 0) for k in range(SAMPLES)]
    after = list(scores)
    for k in range(30):
        after[(37 * k + 1) % SAMPLES] = 0.0
    for k in range(18):
        after[10 * (k * k % 199)] = 1.0
    return Measurement(
        device=device,
        host=Host(
            machine="aarch64",
            model="Camera Board 5",
            cpu="Cortex-A76",
            cores=4,
            system="Linux 6.12",
            versions=VERSIONS,
        ),
        threads=1,
        batch=1,
        clock="cpu",
        labels=tuple(CLASSES),
        dense=EngineEvidence(
            sha256=DENSE_SHA,
            parity_error=4.1e-7,
            size_bytes=14 * MIB,
            macs=300_774_272,
            parameters=3_504_872,
            scores=tuple(scores),
            samples_sha256=SAMPLES_SHA,
            starts=starts(58),
            layers_ms={},
        ),
        shipped=EngineEvidence(
            sha256=SHIPPED_SHA,
            parity_error=6.3e-7,
            size_bytes=7 * MIB,
            macs=150_112_000,
            parameters=1_702_112,
            scores=tuple(after),
            samples_sha256=SAMPLES_SHA,
            starts=starts(36),
            layers_ms={"stem": 0.9, "block.1": 0.4, "head": 0.2},
        ),
        latency=latency(shipped_ms),
    )


def scaled(
    found: Measurement, dense: float = 1.0, shipped: float = 1.0, memory: float = 1.0
) -> Measurement:
    """The same samples, the times of either engine as many times as long.

    `memory` is how many times as much the shipped engine takes.
    """
    runs = tuple(
        run.model_copy(
            update={
                "dense": _longer(run.dense, dense),
                "control": _longer(run.control, dense),
                "shipped": _longer(run.shipped, shipped),
            }
        )
        for run in found.latency
    )
    engines = {
        name: engine.model_copy(
            update={"starts": tuple(_heavier(run, times, peak) for run in engine.starts)}
        )
        for name, engine, times, peak in (
            ("dense", found.dense, dense, 1.0),
            ("shipped", found.shipped, shipped, memory),
        )
    }
    return found.model_copy(update={**engines, "latency": runs})


def _longer(times: CallTimes, factor: float) -> CallTimes:
    wall, cpu = (tuple(int(factor * ns) for ns in clock) for clock in (times.wall_ns, times.cpu_ns))
    return times.model_copy(update={"wall_ns": wall, "cpu_ns": cpu})


def _heavier(run: StartRun, times: float, memory: float) -> StartRun:
    return run.model_copy(
        update={
            "load_ms": times * run.load_ms,
            "first_ms": times * run.first_ms,
            "peak_mib": run.baseline_mib + memory * (run.peak_mib - run.baseline_mib),
        }
    )


def judged(found: Measurement, budget: Budget = BUDGET, device: DeviceProfile = EDGE) -> Judged:
    """The verdict on it, as of the engine that was measured."""
    terms = Terms(
        device_name=found.device,
        device=device,
        ssh=None,
        budget=budget,
        engine="engine.onnx",
        dense="dense.onnx",
        measurement="measurement.json",
    )
    engine = EngineForDevice(SHIPPED_SHA, found.device, device)
    return Judged(terms, engine, found, judge(found, budget, engine))


def pruned() -> PruneReport:
    """Forty groups, four trials of which one could not be tried."""
    groups = {
        f"features.{n}.conv.{n % 3}.0": GroupReport(
            units=16 * (1 + n // 3),
            kept=8 * (1 + n // 3) + 8 * (n % 2),
            lowest_kept=0.4,
            highest_removed=0.3,
        )
        for n in range(40)
    }
    trials = (
        Trial(criterion="pro", allocator="reconstruction", distance=0.2224, reason=""),
        Trial(criterion="magnitude", allocator="uniform", distance=0.4121, reason=""),
        Trial(criterion="taylor", allocator="reconstruction", distance=0.2897, reason=""),
        Trial(
            criterion="relevance", allocator="hill", distance=None, reason="an op it cannot follow"
        ),
    )
    return PruneReport(
        criterion="pro",
        allocator="reconstruction",
        macs_ratio_asked=0.5,
        macs_ratio=0.499,
        macs_dense=300_774_272,
        macs=150_112_000,
        groups=groups,
        refused={"classifier.1": "its channels are the network's output"},
        trials=trials,
        remarks=("Chosen from 3 pairs on 200 held-out samples",),
    )


def release(*targets: Judged) -> Release:
    return Release(pruned(), targets or (judged(measurement()),))


REPAIRED = RepairReport(
    recoveries=(
        RecoveryReport(
            name="least_squares",
            distance_before=29.23,
            distance_after=0.00867,
            kept=True,
            remarks=(),
        ),
        RecoveryReport(
            name="bn_recalibrate",
            distance_before=0.00867,
            distance_after=None,
            kept=False,
            remarks=("the outputs were not finite",),
        ),
    )
)
CHECKED = CheckReport(
    baselines=(
        Baseline(name="chosen", distance=0.2224, score=None),
        Baseline(name="random 0", distance=0.9312, score=None),
        Baseline(name="from scratch", distance=None, score=0.8312),
        Baseline(name="small dense", distance=None, score=0.8544),
    ),
    kendall_tau=0.71,
    plans=8,
)
EXPORTED = ExportReport(
    method="dynamo",
    refused=("torch.onnx: an op without a symbolic",),
    opset=20,
    nodes_exported=162,
    nodes=101,
    export_error=3.8e-7,
    simplified_by="onnxsim",
    simplify_error=1.2e-7,
    macs=150_112_000,
    parameters=1_702_112,
    layers=(
        LayerCost(name="features.3.conv.0.0.weight", op="Conv", macs=9_000_000, channels=70),
        LayerCost(name="features.4.conv.0.0.weight", op="Conv", macs=9_000_000, channels=64),
    ),
)
STAGES = (
    StageRecord("export dense", "d9812be3631e" + "0" * 52, True, 6.5),
    StageRecord("prune", "cd927f739958" + "0" * 52, False, 15.2),
    StageRecord("recover", "2e967c23b0d8" + "0" * 52, False, 20.8),
    StageRecord("finetune", "70640afaf7e5" + "0" * 52, False, 611.8),
)


def report_content(found: Release) -> ReportContent:
    """What a report is written from, with every section there is."""
    return ReportContent(found, REPAIRED, CHECKED, EXPORTED, STAGES)
