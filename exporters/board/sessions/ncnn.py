"""ncnn runs an engine on the CPU, one image at a time."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ncnn
import numpy as np

from exporters.board.archive import unpack
from exporters.board.session import TensorSpec
from profiles.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.arrays import Array
    from exporters.board.session import Options

GRAPH, WEIGHTS, SHAPES = "model.ncnn.param", "model.ncnn.bin", "shapes.json"
"""The files of an engine."""


@dataclass(frozen=True)
class Shapes:
    """What ncnn's files do not tell; both begin with the batch, which is 1."""

    input: tuple[int, ...]
    output: tuple[int, ...]


class NcnnSession:
    """A loaded net with one input and one output."""

    def __init__(self, net: ncnn.Net, shapes: Shapes) -> None:
        self.net = net
        self._shapes = shapes
        (self._input,) = net.input_names()
        (self._output,) = net.output_names()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec(self._input, "float32", self._shapes.input),)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        batch = feed[self._input]
        # It would read beyond a smaller array.
        if batch.shape != self._shapes.input or batch.dtype != np.float32:
            raise DeviceError(
                f"this ncnn engine takes float32 {list(self._shapes.input)}, "
                f"not {batch.dtype} {list(batch.shape)}"
            )
        extractor = self.net.create_extractor()
        # A Mat borrows the array's memory, and a layer may write into its input.
        extractor.input(self._input, ncnn.Mat(np.ascontiguousarray(batch[0])).clone())
        code, found = extractor.extract(self._output)
        if code != 0:
            raise DeviceError(f"ncnn failed with code {code}")
        return [np.array(found, np.float32).reshape(self._shapes.output)]


def open_engine(path: str, options: Options) -> NcnnSession:
    """The engine loaded. Raises DeviceError for files that are not ncnn's."""
    graph, weights, shapes = unpack(Path(path), (GRAPH, WEIGHTS, SHAPES))
    return loaded(graph, weights, read_shapes(shapes), options.threads, options.precision)


def loaded(
    graph: bytes, weights: bytes, shapes: Shapes, threads: int, precision: str
) -> NcnnSession:
    """The net, from private files: in memory it would read on beyond weights cut short."""
    half = precision == "fp16"
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, GRAPH).write_bytes(graph)
        Path(folder, WEIGHTS).write_bytes(weights)
        for load, name in ((net.load_param, GRAPH), (net.load_model, WEIGHTS)):
            if load(str(Path(folder, name))) != 0:
                raise DeviceError(f"{name} is broken, or of another version of ncnn")
    return NcnnSession(net, shapes)


def read_shapes(text: bytes) -> Shapes:
    """The shapes of `shapes.json`. Raises DeviceError unless they are two lists of sizes."""
    try:
        found = json.loads(text)
        shapes = Shapes(tuple(found["input"]), tuple(found["output"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeviceError(f"{SHAPES} is broken: {error}") from error
    if not all(type(d) is int and d > 0 for d in shapes.input + shapes.output):
        raise DeviceError(f"{SHAPES} is broken: {found}")
    return shapes
