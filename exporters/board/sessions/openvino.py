"""OpenVINO runs an engine on the CPU."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from exporters.board.archive import unpack
from exporters.board.session import PROFILED_CALLS, TensorSpec, call_on_noise
from profiles.errors import DeviceError

# As it is imported OpenVINO reports its use over the network, from a fork of the process, unless
# this package is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.arrays import Array
    from exporters.board.session import Options

DEVICE = "CPU"
GRAPH, WEIGHTS = "model.xml", "model.bin"
"""The files of an engine."""
WITHOUT_BIAS = re.compile("/WithoutBiases$")
"""Ends the name of a layer that OpenVINO parts from its bias, which then bears the name itself."""


class OpenVinoSession:
    """A compiled model on the CPU and nothing else."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        if compiled.get_property("EXECUTION_DEVICES") != [DEVICE]:
            found = compiled.get_property("EXECUTION_DEVICES")
            raise DeviceError(f"OpenVINO took {found}, not {DEVICE}")
        self.compiled = compiled
        self.request = compiled.create_infer_request()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                port.get_any_name(),
                str(port.get_element_type().to_dtype()),
                tuple(None if d.is_dynamic else d.get_length() for d in port.get_partial_shape()),
            )
            for port in self.compiled.inputs
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        found = self.request.infer(dict(feed))  # copies, unless it is asked to share
        return [np.asarray(found[port]) for port in self.compiled.outputs]


def open_engine(path: str, options: Options) -> OpenVinoSession:
    """The engine loaded; its types are those of the computation."""
    graph, weights = unpack(Path(path), (GRAPH, WEIGHTS))
    return OpenVinoSession(compiled(graph, weights, options.threads))


def layer_times_ms(path: str, options: Options, batch: int) -> dict[str, float]:
    """The median time of each operation on noise, by its name."""
    graph, weights = unpack(Path(path), (GRAPH, WEIGHTS))
    session = OpenVinoSession(compiled(graph, weights, options.threads, PERF_COUNT=True))
    call = call_on_noise(session, batch)
    times: dict[str, list[float]] = {}
    for _ in range(PROFILED_CALLS):
        call()
        call_ms: dict[str, float] = {}
        for node in session.request.profiling_info:
            if node.status == node.EXECUTED:
                name = WITHOUT_BIAS.sub("", node.node_name)
                call_ms[name] = call_ms.get(name, 0.0) + node.real_time.total_seconds() * 1e3
        for name, ms in call_ms.items():
            times.setdefault(name, []).append(ms)
    return {name: median(found) for name, found in times.items()}


def compiled(graph: bytes, weights: bytes, threads: int, **more: bool) -> openvino.CompiledModel:
    """The network on the CPU, in one stream; with `more` of OpenVINO's own options."""
    core = _core()
    options = {
        # Left alone, it computes in bf16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        **more,
    }
    return core.compile_model(core.read_model(model=graph, weights=weights), DEVICE, options)


@lru_cache(maxsize=1)
def _core() -> openvino.Core:
    """The one of this process, which keeps the plugin for CPUs loaded to the end.

    The plugin gives the thread that loads it a stack for signals, and frees it when the last user
    of the plugin is gone. Where that happens in another thread, the first thread still has the
    stack that was freed, and the next signal ends the process.
    """
    return openvino.Core()
