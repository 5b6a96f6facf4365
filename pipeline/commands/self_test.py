"""What this machine can tell apart: one engine timed against itself, as every pair is."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from exporters.exporter import Source, runtime
from exporters.worker import EngineFile
from pipeline.measure.places import Place, ThisMachine
from pipeline.measure.sessions import EnginePair, Measure, Timing, time_engines
from profiles.device import DEFAULT_ENGINE, EngineOptions
from profiles.errors import StageError
from profiles.looks import others_cores
from profiles.measurement import time_ratio, wall_ms
from profiles.requirements import MAX_CONTROL_ERROR, control_error
from profiles.statistics import Interval

if TYPE_CHECKING:
    from torch import nn

CHANNELS, SIZE, LAYERS = 32, 32, 4
"""Of the network that is timed: 38 MMACs."""


@dataclass(frozen=True)
class SelfTest:
    """Ratios are of CPU time; the truth is 1."""

    ratio: Interval
    control_error: float
    wall_p50_ms: Interval
    others_cores: float | None
    """How many processors other processes kept busy, in the worst run."""

    @property
    def smallest_difference(self) -> float:
        """The smallest difference of two engines that its bounds do not hide, as a fraction."""
        return max(abs(self.ratio.upper - 1), abs(1 - self.ratio.lower))

    @property
    def usable(self) -> bool:
        """Whether the gate would take times from this machine as it is now."""
        return self.control_error <= MAX_CONTROL_ERROR


def self_test(settings: Measure) -> SelfTest:
    """Time a small network on ONNX Runtime against itself, here."""
    with TemporaryDirectory() as name:
        return timed_alike(ThisMachine(), small_engine(Path(name)), settings)


def timed_alike(place: Place, engine: EngineFile, settings: Measure) -> SelfTest:
    """Time an engine against itself at a place."""
    timing = Timing(settings, batch=1, clock="cpu", least_calls=12)
    runs = time_engines(place, EnginePair(engine, engine), timing)
    others = [cores for run in runs if (cores := others_cores(run.conditions)) is not None]
    return SelfTest(
        time_ratio([run.shipped for run in runs], [run.dense for run in runs], "cpu"),
        control_error(runs, "cpu"),
        wall_ms([run.shipped for run in runs], 50),
        max(others) if others else None,
    )


def text(found: SelfTest) -> str:
    """What is printed."""
    wall = found.wall_p50_ms
    others = "unknown" if found.others_cores is None else f"{found.others_cores:.2f} processors"
    verdict = "times from here count" if found.usable else "too noisy: no time from here counts"
    return "\n".join(
        [
            f"ratio of an engine to itself  {found.ratio.measured:.4f} "
            f"[{found.ratio.lower:.4f}, {found.ratio.upper:.4f}]",
            f"control off by                {found.control_error:.2%}, "
            f"{MAX_CONTROL_ERROR:.0%} at most",
            f"smallest difference resolved  {found.smallest_difference:.2%} of CPU time",
            f"p50 of wall time, bounds      {wall.lower / wall.measured - 1:+.1%} "
            f"{wall.upper / wall.measured - 1:+.1%}",
            f"other processes kept busy     {others}",
            verdict,
        ]
    )


def self_test_json(found: SelfTest) -> str:
    """One versioned object; what is not finite is null."""
    value = {
        "schema_version": 1,
        "usable": found.usable,
        "smallest_difference": found.smallest_difference,
        **asdict(found),
    }
    if not math.isfinite(found.smallest_difference):
        raise StageError("the self-test gave no finite figure; run it again")
    return json.dumps(value, indent=1)


def small_engine(folder: Path) -> EngineFile:
    """An engine of ONNX Runtime for four convolutions, in `folder`."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(LAYERS):
        weight = generator.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 17
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        given, made = [last, f"w{layer}"], [f"c{layer}"]
        nodes.append(helper.make_node("Conv", given, made, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    shape = [1, CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x", last)]
    graph = helper.make_graph(nodes, "self_test", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(model, str(folder / "model.onnx"))
    options = EngineOptions()
    exporter = runtime(DEFAULT_ENGINE, options)
    path = folder / f"engine{exporter.suffix}"
    exporter.build(Source(folder / "model.onnx", np.zeros(shape, np.float32), _no_network), path)
    return EngineFile(runtime=DEFAULT_ENGINE, options=options, path=str(path))


def _no_network() -> "nn.Module":
    raise StageError("ONNX Runtime builds from ONNX alone")
