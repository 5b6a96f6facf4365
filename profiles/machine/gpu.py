"""The NVIDIA GPUs of this machine, as CUDA's driver tells. Needs Python 3.8 and no library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from profiles.errors import DeviceError

MAJOR, MINOR = 75, 76
"""CUdevice_attribute: the two halves of the compute capability."""


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
        call_driver(cuda, "cuDeviceGetName", name, 256, ordinal)
        call_driver(cuda, "cuDeviceGetAttribute", ctypes.byref(major), MAJOR, ordinal)
        call_driver(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), MINOR, ordinal)
        found.append(Gpu(ordinal, name.value.decode(), f"{major.value}.{minor.value}"))
    return tuple(found)


def gpu_of(compute_capability: str | None) -> Gpu | None:
    """The first GPU of that compute capability, the first of all for None."""
    for gpu in gpus():
        if compute_capability in (None, gpu.compute_capability):
            return gpu
    return None


def obstacle(compute_capability: str | None) -> str:
    """Why nothing runs on such a GPU here; empty where something does."""
    if gpu_of(compute_capability) is not None:
        return ""
    which = f" of compute capability {compute_capability}" if compute_capability else ""
    return f"running it needs an NVIDIA GPU{which}; there is none here"


def call_driver(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    """One call of CUDA's driver. Raises DeviceError with its number for an error."""
    code = getattr(cuda, name)(*arguments)
    if code:
        raise DeviceError(f"{name}: CUDA error {code}")
