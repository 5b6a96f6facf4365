"""Finding TensorRT's libraries, and the little of CUDA's driver that running an engine needs."""

import contextlib
import ctypes
import importlib
import importlib.util
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from exporters.arrays import Array
from profiles.errors import DeviceError, MissingExtra

WHEEL = "onnxruntime_ep_nv_tensorrt_rtx"
"""It carries the libraries of TensorRT-RTX."""
LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
"""In the order in which they need each other."""
MAJOR, MINOR = 75, 76
"""CUdevice_attribute: the two halves of the compute capability."""


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


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU of this machine."""

    ordinal: int
    name: str
    compute_capability: str


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver offers; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for ordinal in range(count.value):
        name = ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        _call(cuda, "cuDeviceGetName", name, 256, ordinal)
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), MAJOR, ordinal)
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), MINOR, ordinal)
        found.append(Gpu(ordinal, name.value.decode(), f"{major.value}.{minor.value}"))
    return tuple(found)


def gpu_of(compute_capability: str | None) -> Gpu | None:
    """The first GPU of that compute capability, the first of all for None."""
    for gpu in gpus():
        if compute_capability in (None, gpu.compute_capability):
            return gpu
    return None


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

    def memory(self, size: int) -> "Memory":
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return Memory(self._cuda, address.value, size)

    def upload(self, array: Array, memory: "Memory") -> None:
        to, size = ctypes.c_uint64(memory.address), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", to, _pointer(array), size, self._stream)

    def download(self, memory: "Memory", array: Array) -> None:
        source, size = ctypes.c_uint64(memory.address), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", _pointer(array), source, size, self._stream)

    def wait(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def _call(self, name: str, *arguments: object) -> None:
        _call(self._cuda, name, *arguments)


class Memory:
    """Device memory, freed with this object."""

    def __init__(self, cuda: ctypes.CDLL, address: int, size: int) -> None:
        self.address = address
        self.size = size
        weakref.finalize(self, cuda.cuMemFree_v2, ctypes.c_uint64(address))


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = getattr(cuda, name)(*arguments)
    if code:
        raise DeviceError(f"{name}: CUDA error {code}")
