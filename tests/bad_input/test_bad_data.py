"""Images and labels that cannot be used are refused with the file, the class or the array."""

import pickle  # noqa: TID251 - what is refused has to be made
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from user_project import Array, Canary, Project

from pipeline.data.images import ArrayImages, FileImages, Preprocessing, load_images
from pipeline.store.reports import RepairReport
from profiles.errors import ConfigError
from profiles.spec import read_spec

CLASSES = ("ant", "bee", "cat", "dog")

ARRAYS: dict[str, tuple[dict[str, Array], str]] = {
    "type": (
        {"train_x": np.ones((64, 12, 12), np.float32)},
        "train_x must be uint8 [n, h, w] or [n, h, w, c], none of them 0; found float32 [64, 12,",
    ),
    "dimensions": ({"val_x": np.ones((32, 144), np.uint8)}, "val_x must be uint8 "),
    "no image": (
        {"val_x": np.ones((0, 12, 12), np.uint8), "val_y": np.ones(0, np.int64)},
        "found uint8 [0, 12, 12]",
    ),
    "no pixel": ({"train_x": np.ones((64, 0, 12), np.uint8)}, "found uint8 [64, 0, 12]"),
    "channels": (
        {"train_x": np.ones((64, 12, 12, 3), np.uint8)},
        "images have 3 channels, mean and std 1",
    ),
    "count": ({"train_y": np.zeros(3, np.int64)}, "must be 64 integer labels; found int64 [3]"),
    "float": ({"train_y": np.zeros(64, np.float32)}, "integer labels; found float32 [64]"),
    "text": ({"val_y": np.full(32, "cat")}, "val_y must be 32 integer labels; found <U3"),
    "negative": ({"train_y": np.arange(64) - 1}, "train_y has the label -1; they start at 0"),
    "missing class": (
        {"val_y": np.full(32, 1)},
        "validation has no image of class 0, 2, 3 (3 in all); add some, or set "
        "task.allow_missing_classes = true",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_a_wrong_array_is_named(case: str, project: Project) -> None:
    arrays, says = ARRAYS[case]
    project.put(**arrays)
    project.refuses(2, f"{project.folder / 'data.npz'}: ", says)


def test_a_label_beyond_the_outputs_is_named(project: Project) -> None:
    project.put(train_y=np.arange(64) % 5, val_y=np.arange(32) % 5)
    project.refuses(2, "label 4 is out of range: the network has 4 outputs; check the labels")


def test_training_images_that_are_all_the_same_are_told_of(project: Project) -> None:
    project.put(train_x=np.full((64, 12, 12), 7, np.uint8))
    project.refuses(
        2,
        "all 32 calibration samples are the same: they tell nothing of other inputs; check how the "
        "training data is read",
    )


def test_training_images_of_one_class_are_enough_to_prune(project: Project) -> None:
    project.put(train_y=np.zeros(64, np.int64))
    assert project.prune().code == 0
    (report,) = (project.cache / "done").glob("*/recover.json")
    (recovery,) = read_spec(report, RepairReport).recoveries
    assert recovery.kept


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": np.ones(3)}, "has no train_x and no train_y; it holds nothing of the kind"),
        (
            {"train_x": np.ones((4, 12, 12), np.uint8), "train_y": np.arange(4)},
            "has no val_x and no val_y; it holds train_x, train_y",
        ),
        (
            {f"{s}_x": np.ones((4, 12, 12), np.uint8) for s in ("train", "test")}
            | {"train_y": np.arange(4)},
            "has no test_y; it holds train_x, test_x, train_y",
        ),
    ],
)
def test_an_array_that_is_missing_is_named(
    arrays: dict[str, Array], says: str, project: Project
) -> None:
    np.savez(project.folder / "data.npz", allow_pickle=False, **arrays)
    project.refuses(2, f"{project.folder / 'data.npz'}: ", says)


def flipped(raw: bytes) -> bytes:
    return raw[:3000] + bytes([raw[3000] ^ 0x55]) + raw[3001:]


RAW: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda raw: raw[: len(raw) // 2], "not an .npz file, or cut short"),
    "empty": (lambda _: b"", "not an .npz file, or cut short; write it with numpy.savez"),
    "text": (lambda _: b"hello", "not an .npz file"),
    "one array": (lambda _: b"\x93NUMPY\x01\x00", "not an .npz file"),
    "flipped": (flipped, "not a readable .npz file (Bad CRC-32 for file 'train_x.npy')"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_file_that_is_no_archive_is_named(case: str, project: Project) -> None:
    change, says = RAW[case]
    path = project.folder / "data.npz"
    path.write_bytes(change(path.read_bytes()))
    project.refuses(2, f"{path}: ", says)


def test_a_damaged_compressed_archive_is_named(project: Project) -> None:
    path = project.folder / "data.npz"
    with np.load(path) as archive:
        arrays: dict[str, Array] = {name: archive[name] for name in archive.files}
    np.savez_compressed(path, allow_pickle=False, **arrays)
    raw = bytearray(path.read_bytes())
    raw[200:400] = bytes(200)
    path.write_bytes(raw)
    project.refuses(2, f"{path}: not a readable .npz file (")


def test_an_archive_of_other_things_is_told_what_it_lacks(project: Project) -> None:
    path = project.folder / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_x", "not an array")
        archive.writestr("train_y", "nor this")
    project.refuses(2, f"{path}: has no train_x and no train_y; it holds nothing of the kind")


def test_an_archive_of_python_objects_is_refused_and_does_not_run(project: Project) -> None:
    ran = project.folder / "ran"
    project.put(train_x=np.array([Canary(ran)], dtype=object))
    project.refuses(7, "data.npz: holds Python objects, which may run code; save plain arrays")
    assert not ran.exists()
    with np.load(project.folder / "data.npz", allow_pickle=True) as archive:
        assert len(archive["train_x"]) == 1
    assert ran.exists()


def test_a_pickle_in_place_of_an_archive_is_refused_and_does_not_run(project: Project) -> None:
    ran = project.folder / "ran"
    (project.folder / "data.npz").write_bytes(pickle.dumps(Canary(ran)))
    project.refuses(7, "data.npz: holds Python objects, which may run code")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("none.npz", "no such file or folder"),
        ("none", "no such file or folder"),
        ("net.py", "data must be a folder with train/ and val/, or an .npz file"),
        (".", "train: no such folder; data needs train/ and val/"),
    ],
)
def test_data_that_is_not_there_is_named(data: str, says: str, project: Project) -> None:
    project.recipe(task={"data": data})
    project.refuses(2, f"{project.folder / data}", says)


@pytest.mark.parametrize("shape", [(4, 6), (30, 12), (1, 100), (13, 13)])
def test_images_of_any_size_are_fitted(shape: tuple[int, int]) -> None:
    image = np.full((1, *shape, 1), 255, np.uint8)
    fit = Preprocessing(mean=(0.5,), std=(0.5,), size=12)
    inputs, _ = ArrayImages(image, np.zeros(1, np.int64), fit)[0]
    np.testing.assert_array_equal(inputs, np.ones((1, 12, 12), np.float32), strict=True)


def write_images(
    project: Project, val: Sequence[str] = CLASSES, train: Sequence[str] = CLASSES, count: int = 8
) -> Path:
    """A folder of tiny colour photographs; the recipe reads it."""
    folder = project.folder / "images"
    generator = np.random.default_rng(0)
    for split, names in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        for name in names:
            (folder / split / name).mkdir()
            for i in range(count):
                pixels = generator.integers(0, 255, (14, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    project.recipe(task={"data": "images"})
    return folder


def test_a_folder_of_images_is_read_and_hidden_folders_are_no_class(project: Project) -> None:
    folder = write_images(project)
    (folder / "train" / ".thumbnails").mkdir()
    fit = Preprocessing(mean=(0.5,), std=(0.5,), size=12)
    train, validation = load_images(folder, fit, (), allow_missing=False)
    assert (len(train), len(validation)) == (32, 32)
    assert set(train.targets) == {0, 1, 2, 3}
    assert project.prune().code == 0


@pytest.mark.parametrize(
    ("train", "val", "count", "says"),
    [
        ((), CLASSES, 1, "train: has no class; put each class's images in a folder of its own"),
        (CLASSES, (), 1, "val: has no class; put"),
        (CLASSES, CLASSES, 0, "train: its class folders hold no image (.bmp, .jpeg, .jpg, "),
        (CLASSES, (*CLASSES, "eel"), 1, "val: unknown class 'eel'; the classes are those of"),
        (CLASSES, CLASSES[:2], 1, "validation has no image of class cat, dog (2 in all); add some"),
    ],
)
def test_a_folder_without_what_it_needs_is_named(
    train: Sequence[str], val: Sequence[str], count: int, says: str, project: Project
) -> None:
    folder = write_images(project, val, train, count)
    project.refuses(2, f"{folder}", says)


def test_a_class_may_be_missing_from_validation_on_purpose(project: Project) -> None:
    write_images(project, val=CLASSES[:2])
    project.recipe(task={"data": "images", "allow_missing_classes": True})
    assert project.prune().code == 0


@pytest.mark.parametrize("cut", [0, 20, 300])
def test_a_broken_image_is_named(cut: int, project: Project) -> None:
    path = write_images(project) / "train" / "bee" / "3.jpg"
    path.write_bytes(path.read_bytes()[:cut])
    project.refuses(2, f"{path}: not a readable image (")


@pytest.mark.parametrize(
    ("kind", "dtype", "mode"),
    [("png", "uint16", "I;16"), ("tiff", "int32", "I"), ("tiff", "float32", "F")],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_more_than_8_bits_is_named(
    channels: int, kind: str, dtype: str, mode: str, project: Project
) -> None:
    path = write_images(project) / "train" / "bee" / "3.png"
    pixels = np.arange(14 * 16).reshape(14, 16) * 290
    Image.fromarray(pixels.astype(np.dtype(dtype))).save(path, format=kind)
    fit = Preprocessing(mean=(0.5,) * channels, std=(0.5,) * channels, size=12)
    images = FileImages([path], np.zeros(1, np.int64), fit)
    says = f"{path}: its pixels have more than 8 bits (Pillow's mode {mode}); convert it to 8 bits"
    with pytest.raises(ConfigError, match=re.escape(says)):
        images[0]
    project.refuses(2, says)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_image_of_up_to_8_bits_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("RGB", (12, 12), "white").convert(mode).save(path)
    fit = Preprocessing(mean=(0.5,), std=(0.5,), size=12)
    inputs, _ = FileImages([path], np.zeros(1, np.int64), fit)[0]
    np.testing.assert_array_equal(inputs, np.ones((1, 12, 12), np.float32), strict=True)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("ant\nbee\ncat\n", "classes.txt: 3 names for 4 classes"),
        ("ant\nbee\ncat\ndog\neel\n", "classes.txt: 5 names for 4 classes"),
        ("ant\nbee\nant\ndog\n", "classes.txt: must name each class once, one a line"),
        ("", "classes.txt: must name each class once, one a line"),
        ("ant\nbee\ncat\nfox\n", "train: unknown class 'dog'; the classes are those of"),
        (None, "classes.txt: cannot be read (No such file or directory)"),
        ("\udce9", "classes.txt: cannot be read ('utf-8' codec can't decode"),
    ],
)
def test_wrong_class_names_are_told(lines: str | None, says: str, project: Project) -> None:
    write_images(project)
    project.recipe(task={"data": "images", "class_names": "classes.txt", "classes": 4})
    if lines is not None:
        raw = lines.encode("utf-8", "surrogateescape")
        (project.folder / "classes.txt").write_bytes(raw)
    project.refuses(2, f"{project.folder}", says)


def test_more_class_names_than_outputs_are_told_by_the_label(project: Project) -> None:
    write_images(project)
    (project.folder / "classes.txt").write_text("aaa\nant\nbee\ncat\ndog\n")
    project.recipe(task={"data": "images", "class_names": "classes.txt"})
    project.refuses(2, "label 4 is out of range: the network has 4 outputs")


def test_labels_of_other_images_never_pass_as_a_loss_of_nothing(project: Project) -> None:
    """A dense network that answers everything wrong loses nothing by pruning."""
    project.put(train_y=(np.arange(64) + 1) % 4, val_y=(np.arange(32) + 1) % 4)
    found = project.slimgate("run", project.recipe())
    assert found.code == 6, found.err
    assert "better than always answering the commonest class (0.25)" in found.out
