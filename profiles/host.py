"""Host: the machine that measured, as far as it tells about itself."""

from collections.abc import Collection

from profiles.machine.facts import machine_facts
from profiles.spec import PrintableText, Spec


class HostGpu(Spec):
    """An NVIDIA GPU, as its driver tells."""

    ordinal: int
    name: PrintableText
    compute_capability: PrintableText


class Host(Spec):
    """What a measurement must carry to be compared with another one."""

    machine: PrintableText
    """`platform.machine()`: x86_64, aarch64, arm64 ..."""
    model: PrintableText
    """The board, as its device tree or its maker names it; empty where the system does not tell."""
    cpu: PrintableText
    cores: int
    gpus: tuple[HostGpu, ...] = ()
    system: PrintableText
    versions: dict[PrintableText, PrintableText]

    def processors(self) -> tuple[str, ...]:
        """The names of all that computes."""
        return (self.cpu, *(gpu.name for gpu in self.gpus))

    def computes_as(self, other: "Host", runtimes: Collection[str]) -> bool:
        """Whether an engine's outputs on one are evidence for the other.

        `runtimes` are the distributions whose versions must then be the same on both.
        """
        both = set(runtimes) & set(self.versions) & set(other.versions)
        return (
            self.machine == other.machine
            and self.processors() == other.processors()
            and all(self.versions[name] == other.versions[name] for name in both)
        )


def this_host(libraries: tuple[str, ...]) -> Host:
    """This machine, with the versions of `libraries`."""
    return Host.model_validate(machine_facts(("slimgate", *libraries)))
