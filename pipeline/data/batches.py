"""Samples of a split, checked and stacked into batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from pipeline.data.arrays import FloatArray, IntArray, Numbers, Split, Targets
from profiles.errors import ConfigError

Augmentation = Literal["none", "crop", "crop_flip"]


CROP_PADDING = 4


def batches(
    split: Split, indices: Sequence[int] | IntArray, size: int
) -> Iterator[tuple[FloatArray, Targets]]:
    """Inputs [n, ...] float32 and targets [n, ...] for `indices`, `size` at a time.

    Raises ConfigError naming the sample for values that are not finite or shapes that differ.
    """
    for start in range(0, len(indices), size):
        chosen = [int(index) for index in indices[start : start + size]]
        samples = [_sample(split, index) for index in chosen]
        inputs = _stacked(chosen, "inputs", [sample[0] for sample in samples]).astype(np.float32)
        labels = _stacked(chosen, "targets", [sample[1] for sample in samples])
        finite = np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        if not finite.all():
            bad = chosen[int(np.argmin(finite))]
            raise ConfigError(f"sample {bad} holds NaN or infinity; check the data")
        yield inputs, labels.astype(np.int64 if labels.dtype.kind in "iub" else np.float32)


def regrouped(
    read: Iterable[tuple[FloatArray, Targets]], size: int
) -> Iterator[tuple[FloatArray, Targets]]:
    """The same samples in the same order, `size` at a time, the last batch with what is left."""
    held: list[tuple[FloatArray, Targets]] = []
    for batch in read:
        held.append(batch)
        while sum(len(inputs) for inputs, _ in held) >= size:
            inputs, targets = _joined(held)
            yield inputs[:size], targets[:size]
            held = [(inputs[size:], targets[size:])] if len(inputs) > size else []
    if held:
        yield _joined(held)


def _joined(read: Sequence[tuple[FloatArray, Targets]]) -> tuple[FloatArray, Targets]:
    if len(read) == 1:
        return read[0]
    inputs, targets = zip(*read, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def _sample(split: Split, index: int) -> tuple[Numbers, Numbers]:
    """A sample as two arrays. Raises ConfigError that names it when it is no such thing."""
    from pipeline.data.user_code import user_code

    with user_code(f"sample {index}"):
        pair: object = split[index]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(
                f"sample {index} is not a pair of input and target, but a {type(pair).__name__}"
            )
        arrays = np.asarray(pair[0]), np.asarray(pair[1])
    for name, array in zip(("input", "target"), arrays, strict=True):
        if array.dtype.kind not in "iubf":
            raise ConfigError(f"sample {index}: its {name} is {array.dtype}, not numbers")
    return arrays


def _stacked(indices: Sequence[int], what: str, arrays: Sequence[Numbers]) -> Numbers:
    """One array [n, ...] of n. Raises ConfigError naming two samples whose shapes differ."""
    for index, array in zip(indices, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise ConfigError(
                f"the {what} of samples {indices[0]} and {index} differ in shape: "
                f"{list(arrays[0].shape)} and {list(array.shape)}; make them alike"
            )
    return np.stack(arrays)


def balanced_indices(split: Split, count: int, seed: int) -> list[int]:
    """`count` indices with the classes as even as they can be, in random order.

    Needs the labels as `split.targets`, as torchvision's datasets have; without one label a
    sample there, random.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(split))
    try:
        labels = np.asarray(getattr(split, "targets", ()))
    except (TypeError, ValueError):  # of many shapes, or not on the CPU
        labels = np.empty(0)
    if labels.shape == order.shape and labels.dtype.kind in "iubUS":
        labels = labels[order]
        turn = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.count_nonzero(labels == label))
        order = order[np.argsort(turn, kind="stable")]
    return [int(index) for index in order[:count]]


def augment(inputs: FloatArray, how: Augmentation, generator: np.random.Generator) -> FloatArray:
    """Random crops after zero padding, and mirror images, of a batch [n, c, h, w]."""
    if how == "none":
        return inputs
    if inputs.ndim != 4:
        raise ConfigError(f"finetune.augment needs images [c, h, w], found {[*inputs.shape[1:]]}")
    count, _, height, width = inputs.shape
    edge = (CROP_PADDING, CROP_PADDING)
    padded = np.pad(inputs, ((0, 0), (0, 0), edge, edge))
    tops, lefts = generator.integers(0, 2 * CROP_PADDING + 1, (2, count))
    mirrored = generator.random(count) < np.array(0.5 if how == "crop_flip" else 0.0)
    out = np.empty_like(inputs)
    for i in range(count):
        image = padded[i, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width]
        out[i] = image[:, :, ::-1] if mirrored[i] else image
    return out


def check_labels(targets: Targets, outputs: int) -> None:
    """Raise ConfigError for class labels [n] outside 0 .. outputs - 1."""
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs:
            bad = low if low < 0 else high
            raise ConfigError(
                f"label {bad} is out of range: the network has {outputs} outputs; "
                "check the labels, and task.classes"
            )
