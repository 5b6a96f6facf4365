"""The samples that criteria score on and recoveries fit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.data.arrays import FloatArray, Targets
from pipeline.data.batches import balanced_indices, batches
from pipeline.network.spool import Between, Memory, Part
from pipeline.task import Task
from profiles.errors import ConfigError

HELD_OUT_SHARE = 0.1
"""The part of the samples that nothing is fitted to; it judges ridges, recoveries and plans."""
MIXTURE_SHARE = 0.4
"""The share of the other image in a mixture of two (Zhang et al., arXiv 1710.09412)."""
FEWEST_SAMPLES = 2
"""One to fit and one to hold out."""
READ_AT_A_TIME = 64
"""Samples read from the data set before they are copied to the device."""


@dataclass(frozen=True)
class Calibration:
    """Inputs [n, ...] and targets [n, ...]; the last `held_out` are fitted by nobody."""

    inputs: Tensor
    targets: Targets
    held_out: int
    """The number of samples, at the end, that judge what was fitted to the others."""
    memory: Memory = field(default_factory=Memory)
    """Where what is computed of the samples is put aside."""

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

    def first(self, fitted: int) -> "Calibration":
        """No more than `fitted` of the samples that may be fitted, and all held-out ones."""
        if fitted >= self.fitted:
            return self
        inputs = torch.cat([self.inputs[:fitted], self.inputs[self.fitted :]])
        targets = np.concatenate([self.targets[:fitted], self.targets[self.fitted :]])
        return Calibration(inputs, targets, self.held_out, self.memory)

    def with_mixtures(self) -> "WithMixtures":
        """The same inputs, and as many mixtures."""
        return WithMixtures(self.inputs, self.fitted)


class WithMixtures:
    """Samples and as many mixtures of two images, one of them mirrored, made when they are read.

    On its own training images a network is sure of everything; between them, as between
    images it has never seen, it is not. Inputs that are no images stay as they are.
    The fitted samples come first and then their mixtures, the held out and theirs at the end.
    """

    def __init__(self, inputs: Tensor, fitted: int) -> None:
        self._inputs = inputs
        parts = (slice(0, fitted), slice(fitted, len(inputs)))
        self._mixed = inputs.dim() == 4
        self._parts = [
            (part, mixed) for part in parts for mixed in (False, True)[: 1 + self._mixed]
        ]
        self.fitted = fitted * (1 + self._mixed)
        """The number of samples and mixtures, at the beginning, that may be fitted."""

    def __len__(self) -> int:
        return len(self._inputs) * (1 + self._mixed)

    def __getitem__(self, part: Part, /) -> Tensor:
        start, stop, _ = part.indices(len(self))
        found, first = [], 0
        for source, mixed in self._parts:
            size = source.stop - source.start
            inside = range(max(0, start - first), min(size, stop - first))
            if inside:
                found.append(self._read(source, inside, mixed))
            first += size
        return torch.cat(found) if found else self._inputs[:0]

    def _read(self, source: Between, inside: range, mixed: bool) -> Tensor:
        """Samples, or mixtures of each and the one before it, by their places in `source`."""
        own = self._inputs[source.start + inside.start : source.start + inside.stop]
        if not mixed:
            return own
        size = source.stop - source.start
        others = self._inputs[[source.start + (place - 1) % size for place in inside]]
        return (1 - MIXTURE_SHARE) * own + MIXTURE_SHARE * others.flip(-1)


def calibration_of_task(
    task: Task, samples: int, seed: int, device: torch.device, memory_gib: float | None
) -> Calibration:
    """Training samples of every class alike, in a file where they are larger than `memory_gib`.

    Raises ConfigError when there are too few, and when all of them are the same.
    """
    memory = Memory(None if memory_gib is None else memory_gib * 2**30)
    chosen = balanced_indices(task.train, samples, seed)
    inputs: Tensor | None = None
    targets, filled = [], 0
    for read, labels in batches(task.train, chosen, READ_AT_A_TIME):
        if inputs is None:
            inputs = memory.tensor((len(chosen), *read.shape[1:]), device)
        inputs[filled : filled + len(read)] = torch.from_numpy(read)
        targets.append(labels)
        filled += len(read)
    return _calibration([] if inputs is None else [inputs], targets, memory)


def calibration_of_batches(read: Iterable[tuple[Tensor, Targets]]) -> Calibration:
    """The samples of all batches, in their order.

    Raises ConfigError for too few of them, for one that is not finite, and where all are the same.
    """
    pairs = list(read)
    return _calibration([one for one, _ in pairs], [labels for _, labels in pairs], Memory())


def _calibration(parts: list[Tensor], targets: list[Targets], memory: Memory) -> Calibration:
    count = sum(map(len, parts))
    if count < FEWEST_SAMPLES:
        raise ConfigError(f"{count} calibration samples; at least {FEWEST_SAMPLES} are needed")
    inputs = parts[0] if len(parts) == 1 else torch.cat(parts)
    for start in range(0, count, READ_AT_A_TIME):
        finite = inputs[start : start + READ_AT_A_TIME].flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            bad = start + int(finite.logical_not().nonzero()[0])
            raise ConfigError(f"calibration sample {bad} holds NaN or infinity; check the data")
    if all(bool((part == inputs[0]).all()) for part in inputs.split(READ_AT_A_TIME)):
        raise ConfigError(
            f"all {count} calibration samples are the same: they tell nothing of other inputs; "
            "check how the training data is read"
        )
    held_out = max(1, round(HELD_OUT_SHARE * count))
    return Calibration(inputs, np.concatenate(targets), held_out, memory)
