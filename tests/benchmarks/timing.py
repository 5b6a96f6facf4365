"""How well times repeat on this machine, alone and beside a process that keeps a core busy.

Rows: what, peer, loaded, repeat, ratio, lower, upper, covered, control_error, p50_ms, beside_ms,
others_cores.

- `what` "A/A": one session as every run has it, of MobileNetV2's engine beside itself; `ratio` is
  of CPU time, `covered` whether its bounds hold the truth, which is 1
- `what` "A/A spread": over all repeats the standard deviation of the ratio and of log p50 of wall
  time, and the part of the sessions whose bounds held 1
- `what` "loop", peer "python loop": p50 of wall time in one measuring process beside a plain loop
  around the same engine in another, in turns; `ratio` is ours / the loop's
- `loaded`: with a process beside it that keeps one processor busy

MobileNetV2's weights come from `--data`. `--full` repeats 60 times in place of 20.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import Figure, Row, numbers, parse_options, report
from shapes import load
from speedup import engine_of

from exporters.worker import EngineFile, Job, LatencyJob
from pipeline.commands.self_test import timed_alike
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import Measure
from profiles.device import EngineOptions
from profiles.measurement import CallTimes

SETTINGS = Measure(seconds=1.0)
CALLS = 100
BUSY = "while True: pass"
LOOP = """
import sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
shape = [d if isinstance(d, int) else 1 for d in given.shape]
feed = {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
for _ in range(20):
    session.run(None, feed)
times = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter_ns()
    session.run(None, feed)
    times.append(time.perf_counter_ns() - start)
print(float(np.median(times)) / 1e6)
"""
FIGURES = (
    "repeat",
    "ratio",
    "lower",
    "upper",
    "covered",
    "control_error",
    "p50_ms",
    "beside_ms",
    "others_cores",
)


@contextmanager
def busy(loaded: bool) -> Iterator[None]:
    """A process that keeps one processor busy, or none."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if loaded else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def row(what: str, peer: str | None, loaded: bool, **figures: Figure) -> Row:
    """A row in which the figures that it has not are null."""
    return {"what": what, "peer": peer, "loaded": loaded, **dict.fromkeys(FIGURES), **figures}


def alike(engine: EngineFile, loaded: bool, repeats: int) -> Iterator[Row]:
    """Sessions of the engine beside itself, and their spread."""
    rows = []
    for repeat in range(repeats):
        with busy(loaded):
            found = timed_alike(ThisMachine(), engine, SETTINGS)
        ratio = found.ratio
        rows.append(
            row(
                *("A/A", None, loaded),
                repeat=repeat,
                ratio=ratio.measured,
                lower=ratio.lower,
                upper=ratio.upper,
                covered=float(ratio.lower <= 1 <= ratio.upper),
                control_error=found.control_error,
                p50_ms=found.wall_p50_ms.measured,
                others_cores=found.others_cores,
            )
        )
        yield rows[-1]
    yield row(
        *("A/A spread", None, loaded),
        ratio=float(np.std(numbers(rows, "ratio"), ddof=1)),
        p50_ms=float(np.std(np.log(numbers(rows, "p50_ms")), ddof=1)),
        covered=float(np.mean(numbers(rows, "covered"))),
        control_error=max(numbers(rows, "control_error")),
    )


def loops(engine: EngineFile, repeats: int) -> Iterator[Row]:
    """One of our processes, one of the loop, in turns."""
    for repeat in range(repeats):
        job = LatencyJob(
            engines={"shipped": engine}, batch=1, seconds=1.5, least_samples=CALLS, seed=repeat
        )
        answer = json.loads(ThisMachine().answer(Job(latency=job)))
        ours = float(np.median(CallTimes.model_validate(answer["shipped"]).wall_ns)) / 1e6
        command = [sys.executable, "-c", LOOP, engine.path, str(CALLS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = float(done.stdout)
        yield row(
            *("loop", "python loop", False),
            repeat=repeat,
            ratio=ours / theirs,
            p50_ms=ours,
            beside_ms=theirs,
        )


def spread_of(rows: Sequence[Row]) -> dict[str, float]:
    """`ratio`: the widest of A/A; `loop_ratio`: the median of the loop's, from 1."""
    ratios = numbers([r for r in rows if r["what"] == "A/A"], "ratio")
    beside = numbers([r for r in rows if r["what"] == "loop"], "ratio")
    return {
        "ratio": max(abs(ratio - 1) for ratio in ratios),
        "loop_ratio": abs(float(np.median(beside)) - 1),
    }


def main() -> None:
    options = parse_options(__doc__)
    repeats = 60 if options.full else 20
    with TemporaryDirectory() as name:
        network = load("mobilenet_v2", options.data)
        path = engine_of(network, torch.randn(2, 3, 224, 224), Path(name) / "engine.onnx")
        engine = EngineFile(runtime="ort", options=EngineOptions(), path=str(path))
        rows = list(loops(engine, repeats))
        for loaded in (False, True):
            rows += alike(engine, loaded, repeats)
    report(rows, spread_of(rows), options)


if __name__ == "__main__":
    main()
