"""Finding TensorRT's libraries, and the little of CUDA's driver that running an engine needs."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import MissingExtra
from profiles.machine.gpu import Gpu, call_driver

if TYPE_CHECKING:
    from types import ModuleType

    from exporters.arrays import Array

WHEEL = "onnxruntime_ep_nv_tensorrt_rtx"
"""The package that carries the libraries of TensorRT-RTX."""
LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
"""The libraries' files, in the order in which they need each other."""


def load_tensorrt() -> ModuleType:
    """The module of TensorRT, or of TensorRT-RTX. Raises MissingExtra."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("tensorrt")
    try:
        for library in _libraries():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError) as error:
        raise MissingExtra("TensorRT", "rtx") from error


def _libraries() -> list[Path]:
    """The files, which carry their version in the name; importing the wheel would write links."""
    wheel = importlib.util.find_spec(WHEEL)
    folders = [Path(f) for f in (wheel and wheel.submodule_search_locations) or ()]
    return [path for name in LIBRARIES for folder in folders for path in folder.glob(name)]


class Cuda:
    """One GPU's primary context, which TensorRT shares, and a stream."""

    def __init__(self, gpu: Gpu) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), gpu.ordinal)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self._stream = stream

    @property
    def stream(self) -> int:
        return self._stream.value or 0

    def memory(self, size: int) -> Memory:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return Memory(self._cuda, address.value, size)

    def upload(self, array: Array, memory: Memory) -> None:
        to, size = ctypes.c_uint64(memory.address), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", to, _pointer(array), size, self._stream)

    def download(self, memory: Memory, array: Array) -> None:
        source, size = ctypes.c_uint64(memory.address), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", _pointer(array), source, size, self._stream)

    def wait(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def _call(self, name: str, *arguments: object) -> None:
        call_driver(self._cuda, name, *arguments)


class Memory:
    """Device memory, freed with this object."""

    def __init__(self, cuda: ctypes.CDLL, address: int, size: int) -> None:
        self.address = address
        self.size = size
        weakref.finalize(self, cuda.cuMemFree_v2, ctypes.c_uint64(address))


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
