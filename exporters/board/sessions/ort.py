"""ONNX Runtime runs an engine, on the CPU unless it is told otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from exporters.board.session import PROFILED_CALLS, TensorSpec, call_on_noise
from profiles.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.arrays import Array
    from exporters.board.session import Options

PROVIDER = "CPUExecutionProvider"
KERNEL = "_kernel_time"
"""What ONNX Runtime puts behind a node's name in its profile."""
MARKS = re.compile("^InsertedPrecisionFreeCast_|_nchwc$")
"""What it puts around the names of nodes that it makes as it loads a graph."""
Level = onnxruntime.GraphOptimizationLevel
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
}


class OrtSession:
    """A loaded graph on one provider, and on no other."""

    def __init__(self, session: onnxruntime.InferenceSession, provider: str = PROVIDER) -> None:
        # It adds the CPU to every list; a GPU's session forbids that any node falls back to it.
        if session.get_providers() not in ([provider], [provider, PROVIDER]):
            raise DeviceError(f"ONNX Runtime took {session.get_providers()}, not {provider}")
        self._session = session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                value.name,
                NUMPY_TYPES[value.type],
                tuple(d if isinstance(d, int) else None for d in value.shape),
            )
            for value in self._session.get_inputs()
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(output) for output in self._session.run(None, dict(feed))]


def build_engine(model: bytes, engine: str, options: Options) -> dict[str, int | None]:
    """Write the graph as ONNX Runtime optimises it, for this processor unless it is portable."""
    level = Level.ORT_ENABLE_EXTENDED if options.portable else Level.ORT_ENABLE_ALL
    given = options_of(options.threads, level)
    given.optimized_model_filepath = engine
    onnxruntime.InferenceSession(model, given, providers=[PROVIDER])
    return {}


def open_engine(path: str, options: Options) -> OrtSession:
    """The engine loaded."""
    given = options_of(options.threads, level_of(options.portable))
    return OrtSession(onnxruntime.InferenceSession(path, given, providers=[PROVIDER]))


def layer_times_ms(path: str, options: Options, batch: int) -> dict[str, float]:
    """The median time of each kernel on noise, by the name of its node."""
    with TemporaryDirectory() as folder:
        given = options_of(options.threads, level_of(options.portable))
        given.enable_profiling = True
        given.profile_file_prefix = str(Path(folder) / "layers")
        session = onnxruntime.InferenceSession(path, given, providers=[PROVIDER])
        call = call_on_noise(OrtSession(session), batch)
        for _ in range(PROFILED_CALLS):
            call()
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            name = MARKS.sub("", event["name"][: -len(KERNEL)])
            times.setdefault(name, []).append(event["dur"] / 1e3)
    return {name: median(found) for name, found in times.items()}


def level_of(portable: bool) -> onnxruntime.GraphOptimizationLevel:
    """Of optimisation while loading. What is optimised already stays so: doing it again costs load
    time and triples the peak.
    """
    return Level.ORT_ENABLE_ALL if portable else Level.ORT_DISABLE_ALL


def options_of(
    threads: int, level: onnxruntime.GraphOptimizationLevel
) -> onnxruntime.SessionOptions:
    """So many threads, at a level of optimisation, without warnings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3  # errors only: it warns that ALL is for this host, as asked
    return options
