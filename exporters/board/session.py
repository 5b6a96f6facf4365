"""Session: an engine, loaded and ready. Needs Python 3.8 and numpy, so that any board has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.random import default_rng  # here, where its memory counts as no engine's

from profiles.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporters.arrays import Array, FloatArray


UNTIMED_BATCH = 8
"""Samples in one call that is not timed. Every engine whose batch is free takes so many."""
PROFILED_CALLS = 20
"""Calls of which a layer's time is the median."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of an input or output; None marks a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Options(Protocol):
    """How an engine is built and opened: `profiles.device.EngineOptions`, as boards know them."""

    @property
    def threads(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def portable(self) -> bool: ...
    @property
    def compute_capability(self) -> str | None: ...


class Session(Protocol):
    """An engine, loaded and ready."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs in the model's order; returns when they are ready, so it can be timed."""
        ...


def call_on_noise(session: Session, batch: int) -> Callable[[], object]:
    """One run on fixed random input, of `batch` samples. Raises DeviceError for another batch."""
    fixed = session.inputs[0].shape[0]
    if fixed not in (None, batch):
        raise DeviceError(f"the engine takes batches of {fixed}, not of {batch}")
    generator = default_rng(0)
    feed: dict[str, Array] = {
        spec.name: generator.standard_normal([d or batch for d in spec.shape]).astype(spec.dtype)
        for spec in session.inputs
    }
    return lambda: session.run(feed)


def first_output(session: Session, batch: FloatArray) -> FloatArray:
    """The first output [n, ...] for a batch [n, ...]: one by one where the engine's batch is 1, and
    nowhere more than UNTIMED_BATCH at a time.
    """
    (first, *_) = session.inputs
    size = UNTIMED_BATCH if first.shape[0] is None else 1
    parts = np.split(batch, range(size, len(batch), size))
    found = [np.asarray(session.run({first.name: part})[0], np.float32) for part in parts]
    return np.concatenate(found)
