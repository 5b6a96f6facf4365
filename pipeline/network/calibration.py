"""The samples that criteria score on and recoveries fit, held in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import FloatArray, Targets
from pipeline.data.batches import balanced_indices, batches
from pipeline.task import Task
from profiles.errors import ConfigError, StageError
from profiles.machine.facts import available_memory

HELD_OUT_SHARE = 0.1
"""The part of the samples that nothing is fitted to; it judges ridges, recoveries and plans."""
MIXTURE_SHARE = 0.4
"""The share of the other image in a mixture of two (Zhang et al., arXiv 1710.09412)."""
FEWEST_SAMPLES = 2
"""One to fit and one to hold out."""
READ_AT_A_TIME = 64
"""Samples read from the data set before they are copied to the device."""
TENSORS_AT_A_TIME = 8
"""Tensors as large as the largest output that a walk through both networks holds at a time."""


@dataclass(frozen=True)
class Calibration:
    """Inputs [n, ...] and targets [n, ...]; the last `held_out` are fitted by nobody."""

    inputs: Tensor
    targets: Targets
    held_out: int
    """The number of samples, at the end, that judge what was fitted to the others."""

    @property
    def fitted(self) -> int:
        """The number of samples, at the beginning, that may be fitted."""
        return len(self.inputs) - self.held_out

    def batches(self, size: int) -> Iterator[tuple[Tensor, Targets]]:
        """The fitted samples, `size` at a time."""
        for start in range(0, self.fitted, size):
            part = slice(start, min(start + size, self.fitted))
            yield self.inputs[part], self.targets[part]

    def array_batches(self, size: int) -> Iterator[tuple[FloatArray, Targets]]:
        """The fitted samples as arrays on the CPU, `size` at a time."""
        return ((inputs.cpu().numpy(), targets) for inputs, targets in self.batches(size))

    def first(self, samples: int) -> "Calibration":
        """Fewer samples, the same part of them held out."""
        held_out = max(1, round(HELD_OUT_SHARE * samples))
        chosen = [*range(samples - held_out), *range(self.fitted, self.fitted + held_out)]
        return Calibration(self.inputs[chosen], self.targets[chosen], held_out)

    def with_mixtures(self) -> "Calibration":
        """The same and as many mixtures of two images, one of them mirrored; without targets.

        On its own training images a network is sure of everything; between them, as between
        images it has never seen, it is not. Inputs that are no images stay as they are.
        """
        if self.inputs.dim() != 4:
            return self
        parts = []
        for part in (self.inputs[: self.fitted], self.inputs[self.fitted :]):
            parts += [part, (1 - MIXTURE_SHARE) * part + MIXTURE_SHARE * part.roll(1, 0).flip(-1)]
        return Calibration(torch.cat(parts), np.empty(0, np.int64), 2 * self.held_out)


def calibration_of_task(task: Task, samples: int, seed: int, device: torch.device) -> Calibration:
    """Training samples of every class alike.

    Raises ConfigError when there are too few, StageError when they do not fit into memory.
    """
    chosen = balanced_indices(task.train, samples, seed)
    first = next(batches(task.train, chosen[:1], 1))[0]
    available = available_memory()
    if available is not None and len(chosen) * first.nbytes > available / 4:
        raise StageError(
            f"{len(chosen)} samples of {first.nbytes / 2**20:.1f} MiB do not fit into a quarter "
            f"of the {available / 2**20:.0f} MiB of memory there are: set a smaller `samples`"
        )
    read = batches(task.train, chosen, READ_AT_A_TIME)
    return calibration_of_batches(((torch.from_numpy(x).to(device), y) for x, y in read))


def fit_to_memory(
    calibration: Calibration, network: nn.Module
) -> tuple[Calibration, tuple[str, ...]]:
    """As many of the samples as run through the network at once in half of the free memory.

    With a remark where that is not all of them. Raises StageError when it is hardly any.
    """
    example = calibration.inputs[:1]
    on_cuda = example.device.type == "cuda"
    free = torch.cuda.mem_get_info(example.device)[0] if on_cuda else available_memory()
    sample = largest_output(network, example) * TENSORS_AT_A_TIME * 2  # and a mixture for each
    if free is None or len(calibration.inputs) * sample <= free / 2:
        return calibration, ()
    fits = int(free / 2 / sample)
    if fits < FEWEST_SAMPLES / HELD_OUT_SHARE:
        raise StageError(
            f"a sample needs about {sample / 2**20:.0f} MiB on its way through the network and "
            f"{free / 2**20:.0f} MiB are free: repair it on a machine with more memory"
        )
    remark = f"only {fits} of {len(calibration.inputs)} samples fit into half of the free memory"
    return calibration.first(fits), (remark,)


def largest_output(network: nn.Module, example: Tensor) -> int:
    """Bytes of the largest tensor that a layer of the network gives for `example`."""
    sizes = [example.nbytes]

    def note(_: nn.Module, __: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)


def calibration_of_batches(read: Iterable[tuple[Tensor, Targets]]) -> Calibration:
    """The samples of all batches, in their order.

    Raises ConfigError for too few of them, and for one that is not finite.
    """
    pairs = list(read)
    count = sum(len(inputs) for inputs, _ in pairs)
    if count < FEWEST_SAMPLES:
        raise ConfigError(f"{count} calibration samples; at least {FEWEST_SAMPLES} are needed")
    inputs = torch.cat([inputs for inputs, _ in pairs])
    finite = inputs.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        bad = int(finite.logical_not().nonzero()[0])
        raise ConfigError(f"calibration sample {bad} holds NaN or infinity; check the data")
    held_out = max(1, round(HELD_OUT_SHARE * count))
    return Calibration(inputs, np.concatenate([targets for _, targets in pairs]), held_out)
