"""Host: the machine that measured, as far as it tells about itself."""

from profiles.machine import machine_facts
from profiles.spec import Spec

LIBRARIES = (
    "ai-edge-litert",
    "executorch",
    "ncnn",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxsim",
    "openvino",
    "tensorrt",
    "torch",
    "torch-pruning",
    "torchvision",
)
"""Whose versions a measurement carries, where they are installed."""


class HostGpu(Spec):
    """An NVIDIA GPU, as its driver tells."""

    ordinal: int
    name: str
    compute_capability: str


class Host(Spec):
    """What a measurement must carry to be compared with another one."""

    machine: str
    """`platform.machine()`: x86_64, aarch64, arm64 ..."""
    model: str
    """The board, as its device tree or its maker names it; empty where the system does not tell."""
    cpu: str
    cores: int
    gpus: tuple[HostGpu, ...] = ()
    system: str
    versions: dict[str, str]


def this_host(libraries: tuple[str, ...]) -> Host:
    """This machine, with the versions of `libraries`."""
    return Host.model_validate(machine_facts(("slimgate", *libraries)))
