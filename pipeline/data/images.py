"""Labelled images from an .npz or a folder, preprocessed alike wherever they are used."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.data.arrays import Bytes, FloatArray, IntArray, Numbers
from profiles.errors import ConfigError, IntegrityError, SlimgateError
from profiles.spec import Spec

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
PICKLE_START = b"\x80"


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
        mode: Literal["L", "RGB"] = "L" if len(self._preprocessing.mean) == 1 else "RGB"
        return self._preprocessing(_read_image(self._files[index], mode)), self.targets[index]


def _read_image(path: Path, mode: Literal["L", "RGB"]) -> Bytes:
    """The pixels of an image file, uint8 [h, w, c], one channel for "L" and three for "RGB".

    Raises ConfigError for what cannot be decoded, and for pixels of more than 8 bits: Pillow would
    cut all above 255 to 255, and how to scale them only those know who trained on them (12 bits of
    a camera and 16 of a scanner are stored alike).
    """
    from PIL import Image, ImageMode

    try:
        with Image.open(path) as picture:
            found = picture.mode
            pixels = np.asarray(picture.convert(mode))
    except Exception as error:  # decoders of broken files raise almost anything
        raise ConfigError(f"{path}: not a readable image ({error})") from error
    if np.dtype(ImageMode.getmode(found).typestr).itemsize > 1:
        raise ConfigError(
            f"{path}: its pixels have more than 8 bits (Pillow's mode {found}); convert it to "
            "8 bits with the scale that the network was trained with"
        )
    return pixels.reshape(*pixels.shape[:2], -1)


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
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    names: Sequence[str] = ()
    if path.is_dir():
        names = classes or _class_names(path / "train")
        splits: Splits = _from_folder(path, preprocessing, names)
    elif path.suffix == ".npz":
        splits = _from_npz(path, preprocessing)
    else:
        raise ConfigError(f"{path}: data must be a folder with train/ and val/, or an .npz file")
    train, validation = splits
    missing = np.setdiff1d(train.targets, validation.targets)
    if len(missing) and not allow_missing:
        some = ", ".join(names[label] if names else str(label) for label in missing[:5])
        raise ConfigError(
            f"{path}: validation has no image of class {some} ({len(missing)} in all); "
            "add some, or set task.allow_missing_classes = true"
        )
    return splits


def _from_npz(path: Path, preprocessing: Preprocessing) -> tuple[ArrayImages, ArrayImages]:
    arrays = _arrays(path)
    second = "test" if "test_x" in arrays and "val_x" not in arrays else "val"
    splits = []
    for split in ("train", second):
        names = (f"{split}_x", f"{split}_y")
        absent = [name for name in names if name not in arrays]
        if absent:
            held = ", ".join(arrays) or "nothing of the kind"
            raise ConfigError(f"{path}: has no {' and no '.join(absent)}; it holds {held}")
        images, labels = (arrays[name] for name in names)
        shape = list(images.shape)
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or images.dtype != np.uint8 or images.size == 0:
            raise ConfigError(
                f"{path}: {names[0]} must be uint8 [n, h, w] or [n, h, w, c], none of them 0; "
                f"found {images.dtype} {shape}"
            )
        if images.shape[3] != len(preprocessing.mean):
            raise ConfigError(
                f"{path}: images have {images.shape[3]} channels, "
                f"mean and std {len(preprocessing.mean)}"
            )
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ConfigError(
                f"{path}: {names[1]} must be {len(images)} integer labels; "
                f"found {labels.dtype} {list(labels.shape)}"
            )
        if labels.min() < 0:
            raise ConfigError(f"{path}: {names[1]} has the label {labels.min()}; they start at 0")
        pixels = images.astype(np.uint8, copy=False)
        splits.append(ArrayImages(pixels, labels.astype(np.int64), preprocessing))
    return splits[0], splits[1]


def _arrays(path: Path) -> dict[str, Numbers]:
    """The images and labels of an .npz. Raises IntegrityError for a pickle, in it or in its place.

    numpy.load calls every file that it does not know a pickle, so it gets archives alone.
    """
    refused = f"{path}: holds Python objects, which may run code; save plain arrays"
    try:
        with path.open("rb") as file:
            start = file.read(1)
        if not zipfile.is_zipfile(path):
            if start == PICKLE_START:
                raise IntegrityError(refused)
            raise ConfigError(f"{path}: not an .npz file, or cut short; write it with numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files if name[-2:] in ("_x", "_y")}
    except SlimgateError:
        raise
    except Exception as error:  # zipfile, zlib and numpy share no class of error
        if "allow_pickle" in str(error):
            raise IntegrityError(refused) from error
        raise ConfigError(f"{path}: not a readable .npz file ({error})") from error
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


def _from_folder(
    path: Path, preprocessing: Preprocessing, classes: Sequence[str]
) -> tuple[FileImages, FileImages]:
    splits = []
    for split in ("train", "val"):
        found = _class_names(path / split)
        unknown = sorted(set(found) - set(classes))
        if unknown:
            raise ConfigError(
                f"{path / split}: unknown class {unknown[0]!r}; the classes are those of "
                "task.class_names, or the folders of train/"
            )
        files, labels = [], []
        for name in found:
            images = sorted(
                p for p in (path / split / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
            )
            files += images
            labels += [classes.index(name)] * len(images)
        if not files:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ConfigError(f"{path / split}: its class folders hold no image ({kinds})")
        splits.append(FileImages(files, np.array(labels, np.int64), preprocessing))
    return splits[0], splits[1]


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; data needs train/ and val/")
    # Tools leave hidden folders behind; as a class, one would shift the labels of all others.
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise ConfigError(f"{folder}: has no class; put each class's images in a folder of its own")
    return names
