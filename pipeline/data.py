"""Labelled images from an .npz or a folder, preprocessed alike wherever they are used."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from profiles.errors import ConfigError, IntegrityError
from profiles.spec import Spec

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64 | np.float32]
Augmentation = Literal["none", "crop", "crop_flip"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
CROP_PADDING = 4


class Split(Protocol):
    """Map-style labelled data, as a torch Dataset is: `self[i]` is an input and its target."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[npt.ArrayLike, npt.ArrayLike]: ...


class Preprocessing(Spec):
    """uint8 image [h, w, c] -> float32 [c, size, size]: resize, centre crop, scale, normalise."""

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[PositiveFloat, ...] = Field(min_length=1)
    size: PositiveInt
    resize: PositiveInt | None = None
    """Length of the shorter side before the crop; `size` when not given."""
    layout: Literal["NCHW"] = "NCHW"

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std need one value a channel each")
        if self.resize is not None and self.resize < self.size:
            raise ValueError("resize must not be smaller than size")
        return self

    def __call__(self, image: Bytes) -> FloatArray:
        fitted = self._fitted(image)
        scaled = fitted.astype(np.float32) / 255
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)

    def _fitted(self, image: Bytes) -> Bytes:
        from PIL import Image

        height, width = image.shape[:2]
        target = self.resize or self.size
        if min(height, width) != target:
            scale = target / min(height, width)
            shape = (max(target, round(width * scale)), max(target, round(height * scale)))
            picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
            image = np.asarray(picture.resize(shape, Image.Resampling.BILINEAR))
            image = image.reshape(*image.shape[:2], -1)
            height, width = image.shape[:2]
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return image[top : top + self.size, left : left + self.size]


class ArrayImages:
    """Images held in memory, [n, h, w, c] uint8, with integer labels."""

    def __init__(self, images: Bytes, labels: IntArray, preprocessing: Preprocessing) -> None:
        self._images, self.targets, self._preprocessing = images, labels, preprocessing

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        return self._preprocessing(self._images[index]), self.targets[index]


class FileImages:
    """Image files, decoded when they are asked for."""

    def __init__(
        self, files: Sequence[Path], labels: IntArray, preprocessing: Preprocessing
    ) -> None:
        self._files, self.targets, self._preprocessing = files, labels, preprocessing

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        from PIL import Image

        mode = "L" if len(self._preprocessing.mean) == 1 else "RGB"
        try:
            with Image.open(self._files[index]) as picture:
                pixels = np.asarray(picture.convert(mode))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{self._files[index]}: not a readable image ({error})") from error
        image = pixels.reshape(*pixels.shape[:2], -1)
        return self._preprocessing(image), self.targets[index]


Splits = tuple[ArrayImages, ArrayImages] | tuple[FileImages, FileImages]


def load_images(
    path: Path, preprocessing: Preprocessing, classes: Sequence[str], allow_missing: bool
) -> Splits:
    """Training and validation images.

    An .npz holds `train_x`, `train_y` and `val_x`, `val_y` (or `test_x`, `test_y`): uint8
    images [n, h, w] or [n, h, w, c], integer labels. A folder holds `train/CLASS/IMAGE` and
    `val/CLASS/IMAGE`; the label is the class's place in `classes`, or among the sorted folders.
    Raises ConfigError for anything else, and for a class of training that validation lacks
    unless `allow_missing`.
    """
    if path.is_dir():
        splits: Splits = _from_folder(path, preprocessing, classes)
    elif path.suffix == ".npz":
        splits = _from_npz(path, preprocessing)
    else:
        raise ConfigError(f"{path}: data must be a folder with train/ and val/, or an .npz file")
    train, validation = splits
    missing = np.setdiff1d(train.targets, validation.targets)
    if len(missing) and not allow_missing:
        raise ConfigError(
            f"{path}: validation has no image of class {', '.join(map(str, missing[:5]))}"
            f" ({len(missing)} in all); add some, or set task.allow_missing_classes = true"
        )
    return splits


def _from_npz(path: Path, preprocessing: Preprocessing) -> tuple[ArrayImages, ArrayImages]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name[-2:] in ("_x", "_y")}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if "allow_pickle" in str(error):
            raise IntegrityError(
                f"{path}: holds Python objects, which may run code; save plain arrays"
            ) from error
        raise ConfigError(f"{path}: not a readable .npz file ({error})") from error
    second = "val" if "val_x" in arrays else "test"
    splits = []
    for split in ("train", second):
        names = (f"{split}_x", f"{split}_y")
        absent = [name for name in names if name not in arrays]
        if absent:
            raise ConfigError(f"{path}: has no {' and no '.join(absent)}; it holds {list(arrays)}")
        images, labels = (arrays[name] for name in names)
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
            raise ConfigError(
                f"{path}: {names[0]} must be uint8 [n, h, w] or [n, h, w, c], n > 0; "
                f"found {images.dtype} {list(images.shape)}"
            )
        if images.shape[3] != len(preprocessing.mean):
            raise ConfigError(
                f"{path}: images have {images.shape[3]} channels, "
                f"mean and std {len(preprocessing.mean)}"
            )
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise ConfigError(
                f"{path}: {names[1]} must be {len(images)} labels from 0 up; "
                f"found {labels.dtype} {list(labels.shape)}"
            )
        splits.append(ArrayImages(images, labels.astype(np.int64), preprocessing))
    return splits[0], splits[1]


def _from_folder(
    path: Path, preprocessing: Preprocessing, classes: Sequence[str]
) -> tuple[FileImages, FileImages]:
    names = list(classes) or _class_names(path / "train")
    splits = []
    for split in ("train", "val"):
        found = _class_names(path / split)
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise ConfigError(f"{path / split}: unknown class {unknown[0]!r}")
        files, labels = [], []
        for name in found:
            images = sorted(
                p for p in (path / split / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
            )
            files += images
            labels += [names.index(name)] * len(images)
        if not files:
            raise ConfigError(f"{path / split}: its class folders hold no image")
        splits.append(FileImages(files, np.array(labels, np.int64), preprocessing))
    return splits[0], splits[1]


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; data needs train/ and val/")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if not names:
        raise ConfigError(f"{folder}: has no class; put each class's images in a folder of its own")
    return names


def batches(
    split: Split, indices: Sequence[int] | IntArray, size: int
) -> Iterator[tuple[FloatArray, Targets]]:
    """Inputs [n, ...] float32 and targets [n, ...] for `indices`, `size` at a time.

    Raises ConfigError naming the sample for values that are not finite or shapes that differ.
    """
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        pairs = [split[int(index)] for index in chosen]
        try:
            inputs = np.stack([np.asarray(pair[0], np.float32) for pair in pairs])
            labels = np.stack([np.asarray(pair[1]) for pair in pairs])
        except (ValueError, TypeError) as error:
            raise ConfigError(f"samples {list(chosen)[:3]}... do not stack: {error}") from error
        finite = np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        if not finite.all():
            bad = chosen[int(np.argmin(finite))]
            raise ConfigError(f"sample {bad} holds NaN or infinity; check the data")
        yield inputs, labels.astype(np.int64 if labels.dtype.kind in "iub" else np.float32)


def balanced_indices(split: Split, count: int, seed: int) -> list[int]:
    """`count` indices with the classes as even as they can be, in random order.

    Needs the labels as `split.targets`, as torchvision's datasets have; without them, random.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(split))
    targets = getattr(split, "targets", None)
    if targets is not None:
        labels = np.asarray(targets)[order]
        turn = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.count_nonzero(labels == label))
        order = order[np.argsort(turn, kind="stable")]
    return [int(index) for index in order[:count]]


def augment(inputs: FloatArray, how: Augmentation, generator: np.random.Generator) -> FloatArray:
    """Random crops after zero padding, and mirror images, of a batch [n, c, h, w]."""
    if how == "none":
        return inputs
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
            raise ConfigError(f"label {bad} is out of range: the network has {outputs} outputs")
