"""Host: the machine that measured, as far as it tells about itself."""

from profiles.machine import machine_facts
from profiles.spec import Spec, Told

LIBRARIES = (
    "ai-edge-litert",
    "executorch",
    "ncnn",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-gpu",
    "onnxsim",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "torch-pruning",
    "torchvision",
)
"""Whose versions a measurement carries, where they are installed."""


class HostGpu(Spec):
    """An NVIDIA GPU, as its driver tells."""

    ordinal: int
    name: Told
    compute_capability: Told


class Host(Spec):
    """What a measurement must carry to be compared with another one."""

    machine: Told
    """`platform.machine()`: x86_64, aarch64, arm64 ..."""
    model: Told
    """The board, as its device tree or its maker names it; empty where the system does not tell."""
    cpu: Told
    cores: int
    gpus: tuple[HostGpu, ...] = ()
    system: Told
    versions: dict[Told, Told]

    def processors(self) -> tuple[str, ...]:
        """The names of all that computes."""
        return (self.cpu, *(gpu.name for gpu in self.gpus))


def this_host(libraries: tuple[str, ...]) -> Host:
    """This machine, with the versions of `libraries`."""
    return Host.model_validate(machine_facts(("slimgate", *libraries)))
