"""ExecuTorch on the CPU: XNNPACK runs what it can, ExecuTorch's portable operators the rest."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from exporters.arrays import Array
from exporters.board.library_calls import library_errors_as, silenced
from exporters.board.session import TensorSpec
from exporters.exporter import BuildFacts, Exporter, Source
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import versions

if TYPE_CHECKING:
    import torch
    from executorch.runtime import Program
    from torch.fx import Graph


class ExecuTorchSession:
    """The one method of a loaded program; ExecuTorch knows no names of inputs."""

    def __init__(self, program: "Program") -> None:
        self._program = program  # the method reads its weights from the program's bytes
        self._method = program.load_method("forward")
        facts = self._method.metadata
        self._inputs = {
            f"input{index}": tuple(facts.input_tensor_meta(index).sizes())
            for index in range(facts.num_inputs())
        }

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", shape) for name, shape in self._inputs.items())

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        with library_errors_as(DeviceError, "ExecuTorch cannot run the network"):
            given = [_tensor(feed[name]) for name in self._inputs]
            return [output.numpy() for output in self._method.execute(given)]


_OPEN: weakref.WeakSet[ExecuTorchSession] = weakref.WeakSet()


class ExecuTorch(Exporter):
    """ExecuTorch with its XNNPACK backend, for a batch of one.

    All engines of a process share one pool of threads, so open ones need the same number.
    """

    suffix: ClassVar[str] = ".pte"
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("executorch",)

    @classmethod
    def import_library(cls) -> None:
        try:
            import executorch.extension.pybindings.portable_lib
            import executorch.runtime  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise MissingExtra("executorch", "executorch") from error

    def build(self, source: Source, engine: Path) -> BuildFacts:
        import torch

        network = source.network()
        with (
            silenced(),
            library_errors_as(StageError, f"ExecuTorch cannot convert {source.model.name}"),
        ):
            try:
                from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                    XnnpackPartitioner,
                )
                from executorch.exir import to_edge_transform_and_lower
            except ImportError as error:
                raise MissingExtra("executorch", "executorch") from error
            exported = torch.export.export(network, (_tensor(source.calibration[:1]),))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            remarks = _remarks(lowered.exported_program().graph)  # the next step rewrites it
            content: bytes = lowered.to_executorch().buffer
        engine.write_bytes(content)
        return BuildFacts(remarks=remarks)

    def open(self, engine: Path) -> ExecuTorchSession:
        from executorch.runtime import Runtime

        with library_errors_as(DeviceError, f"ExecuTorch cannot load {engine.name}"):
            _use_threads(self.threads)
            session = ExecuTorchSession(Runtime.get().load_program(engine.read_bytes()))
        _OPEN.add(session)
        return session

    def environment(self) -> dict[str, str]:
        return versions(("executorch", "torch"))


def _tensor(array: Array) -> "torch.Tensor":
    """The array as a tensor; torch warns of arrays that cannot be written to."""
    import torch

    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _remarks(graph: "Graph") -> tuple[str, ...]:
    """The operators that XNNPACK does not run."""
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    names = [getattr(target, "__name__", str(target)) for target in called]
    left = [name for name in names if name not in ("executorch_call_delegate", "getitem")]
    if not left:
        return ()
    names = sorted(set(left))
    return (f"XNNPACK leaves {len(left)} to portable operators: {', '.join(names)}",)


def _use_threads(count: int) -> None:
    """Give the process's pool so many threads.

    Open engines hold the pool, and a new one takes it from under them: the process dies. Raises
    DeviceError instead.
    """
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() == count:
        return
    if _OPEN:
        raise DeviceError(f"an engine with other than {count} threads is open in this process")
    portable_lib._unsafe_reset_threadpool(count)
