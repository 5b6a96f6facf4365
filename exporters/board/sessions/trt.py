"""TensorRT 10 and 11, and TensorRT-RTX, which builds for a GPU that is not here.

A serialized engine is executable code: `open_engine` is for files whose digest was verified.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporters.board.session import UNTIMED_BATCH, TensorSpec
from exporters.board.trt_library import Cuda, Memory, load_tensorrt
from profiles.errors import DeviceError, StageError
from profiles.machine.gpu import gpu_of, obstacle

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorrt as trt

    from exporters.arrays import Array
    from exporters.board.session import Options
else:
    trt = load_tensorrt()

IS_RTX = hasattr(trt, "ComputeCapability")
"""Whether this is TensorRT-RTX, whose engines are for a named compute capability; TensorRT's are
for the GPU that builds them.
"""
SMALLEST, USUAL, LARGEST = 1, 4, UNTIMED_BATCH
"""The batches that an engine whose batch is free is built for."""
HEADER = 64
MAGIC = b"vtrt"
LENGTH = slice(16, 24)
"""The bytes of a TensorRT-RTX header that hold the size of the whole file."""
MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+)")
KERNEL = re.compile(r"^Name: .*?, LayerType: (\w+)", re.MULTILINE)
NO_KERNEL = frozenset({"shape_call"})
"""The kinds of layer that the host computes, and no kernel."""


def version() -> dict[str, str]:
    """The name and version of the TensorRT that is loaded."""
    return {trt.__name__: str(trt.__version__)}


class Log(trt.ILogger):  # type: ignore[misc]
    """What TensorRT says nowhere else: why something failed, and what an engine takes."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.clear()

    def clear(self) -> None:
        self.errors: list[str] = []
        self.memory: dict[str, int] = {}
        self.kernels: int | None = None

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(msg)
        elif found := MEMORY.search(msg):
            self.memory[found[1]] = int(found[2])
        elif msg.startswith("Layers:"):
            self.kernels = sum(kind not in NO_KERNEL for kind in KERNEL.findall(msg))

    def words(self) -> str:
        return "; ".join(dict.fromkeys(self.errors)) or "no reason given"


LOG = Log()
"""TensorRT keeps the first logger of a process, and talks to no other."""


class TrtSession:
    """An engine on its GPU."""

    def __init__(self, engine: trt.ICudaEngine, cuda: Cuda) -> None:
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise DeviceError(f"TensorRT cannot start the engine: {LOG.words()}")
        self._cuda = cuda
        self._memory: dict[str, Memory] = {}
        self._names: list[str] = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name,
                self._dtype(name),
                tuple(None if d < 0 else d for d in self._engine.get_tensor_shape(name)),
            )
            for name in self._names
            if self._is_input(name)
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        # The uploads are over only when the stream is: until then the arrays must live.
        given = {n: np.ascontiguousarray(array, self._dtype(n)) for n, array in feed.items()}
        for name, array in given.items():
            if not self._context.set_input_shape(name, array.shape):
                raise DeviceError(f"the engine takes no {name} of shape {array.shape}")
            self._cuda.upload(array, self._bind(name, array.nbytes))
        results: dict[str, Array] = {}
        for name in self._names:
            if not self._is_input(name):
                shape = tuple(self._context.get_tensor_shape(name))
                results[name] = np.empty(shape, self._dtype(name))
                self._bind(name, results[name].nbytes)
        LOG.clear()
        if not self._context.execute_async_v3(self._cuda.stream):
            raise DeviceError(f"TensorRT cannot run the engine: {LOG.words()}")
        for name, array in results.items():
            self._cuda.download(self._memory[name], array)
        self._cuda.wait()
        return list(results.values())

    def _bind(self, name: str, size: int) -> Memory:
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = self._cuda.memory(size)
            self._context.set_tensor_address(name, self._memory[name].address)
        return self._memory[name]

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)

    def _dtype(self, name: str) -> str:
        return str(np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))


def build_engine(model: bytes, engine: str, options: Options) -> dict[str, int | None]:
    """Write the engine of an ONNX model, for the GPU that is here or the one that is named.

    The fields of `exporters.exporter.BuildFacts`, but for its remarks. Raises StageError with
    TensorRT's own words.
    """
    capability = _target(options.compute_capability)
    builder = trt.Builder(LOG)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is what the model says, not ten bits of it
    if IS_RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_known(capability), 0)
    LOG.clear()  # without a GPU it has complained already, of nothing that matters
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse(model):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise StageError("; ".join(errors) or LOG.words())
    _free_batch(builder, network, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise StageError(LOG.words())
    Path(engine).write_bytes(plan)
    return {
        "layers": network.num_layers if LOG.kernels is None else LOG.kernels,
        "weights_bytes": LOG.memory.get("Weights"),
        "activation_bytes": LOG.memory.get("Activation"),
    }


def open_engine(path: str, options: Options) -> TrtSession:
    """The engine loaded on the GPU it is for."""
    plan = _plan(Path(path))
    gpu = gpu_of(options.compute_capability)
    if gpu is None:
        raise DeviceError(obstacle(options.compute_capability))
    cuda = Cuda(gpu)
    LOG.clear()
    # `engine_host_code_allowed` stays False.
    runtime = trt.Runtime(LOG)
    loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        raise DeviceError(f"TensorRT cannot load {path}: {LOG.words()}")
    return TrtSession(loaded, cuda)


def _target(wanted: str | None) -> str:
    """The compute capability to build for."""
    gpu = gpu_of(wanted)
    if gpu is not None:
        Cuda(gpu)  # of several, TensorRT builds on the current one
        return gpu.compute_capability
    if not IS_RTX:
        raise StageError(f"TensorRT builds on the GPU it builds for: {obstacle(wanted)}")
    if wanted is None:
        raise StageError(
            "for which GPU? there is none here, so the device profile must name its "
            'compute_capability, as in compute_capability = "8.7"'
        )
    return wanted


def _known(capability: str) -> trt.ComputeCapability:
    """TensorRT-RTX's name of "8.6"."""
    known = trt.ComputeCapability.__members__
    name = "SM" + capability.replace(".", "")
    if name not in known:
        names = ", ".join(n for n in known if n.startswith("SM"))
        raise StageError(
            f"TensorRT-RTX does not build for {capability}, only for {names}; TensorRT itself "
            "builds on the device: say where it is in target.ssh"
        )
    return known[name]


def _free_batch(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
) -> None:
    """Where the batch is free, say from where to where. Nothing else may be."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    free = {one.name: tuple(one.shape)[1:] for one in inputs if -1 in tuple(one.shape)}
    if not free:
        return
    profile = builder.create_optimization_profile()
    for name, rest in free.items():
        if -1 in rest:
            raise StageError(f"only the batch of {name} may be free, not {(-1, *rest)}")
        profile.set_shape(name, *((batch, *rest) for batch in (SMALLEST, USUAL, LARGEST)))
    config.add_optimization_profile(profile)


def _plan(engine: Path) -> bytes:
    """The bytes of an engine whose header says that they are all there."""
    try:
        plan = engine.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {engine.name}: {error.strerror}") from error
    if not plan:
        raise DeviceError(f"{engine.name} is empty")
    if IS_RTX:
        if len(plan) < HEADER or not plan.startswith(MAGIC):
            raise DeviceError(f"{engine.name} is no engine of TensorRT-RTX")
        length = int.from_bytes(plan[LENGTH], "little")
        if length != len(plan):
            raise DeviceError(f"{engine.name} has {len(plan)} bytes of {length}")
    return plan
