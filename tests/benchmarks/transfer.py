"""A transfer: MobileNetV2 from ImageNet to 20 classes of Tiny-ImageNet, then half of its MACs.

The question: what does pruning cost a network that was fine-tuned to a small task, before and
after it is fine-tuned again, briefly? 300 training and 50 test images a class, 64 x 64 pixels,
are enlarged to SIZE = 128; at 224, the network's own size, a run would take three times as long.
The 20 outputs start as those of the same classes among the 1,000 of ImageNet.

Rows: network, method, peer, epochs, macs_ratio, top1, seconds, in the order in which they happen:

- dense, 0 epochs and DENSE_EPOCHS: trained on the labels alone; the second is what is pruned
- slimgate, 0 epochs and EPOCHS: `pipeline.api.prune` with its defaults to half of the MACs on 500
  training images, repaired by LeastSquares without refinement; then taught by the dense network
- peer torch-pruning, 0 epochs and EPOCHS: its importance "magnitude L2", over all layers
  together, nothing repaired; taught in the same way

`epochs` are those after pruning, or, for the dense network, those of the transfer. A tenth of the
training images chooses the epoch that is kept; no test image chooses anything. `macs_ratio` is to
the dense network at the same size; `top1` is that of all 1,000 test images, and `spread` holds its
standard error. `seconds` is what a row took beyond the row above it, testing included. A run takes
about 12 minutes on two cores and logs each row as it comes; `--cache` is as in `finetune.py`.
"""

import io
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import Row, parse_options, report
from finetune import Bench, fine_tune, spread_of
from first_cut import timed
from PIL import Image
from real import MEAN, STD, Real, tiny_imagenet, told

from pipeline.data.batches import batches
from pipeline.data.images import ArrayImages, Preprocessing
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.task import Task
from pipeline.train.settings import Settings

SIZE = 128
MACS_RATIO = 0.5
PEER_IMPORTANCE = "magnitude L2"
SAMPLES = 500
"""Training images that slimgate calibrates on."""
DENSE_EPOCHS = 2
EPOCHS = 2
TRAINED: int | None = None
"""Training images for each training and the choice of its epoch; None for all 6,000."""
TESTS: int | None = None
"""Test images; None for all."""
TRANSFER = Settings(
    epochs=DENSE_EPOCHS,
    optimizer="sgd",
    learning_rate=0.001,
    batch_size=32,
    augment="crop_flip",
    distill=0.0,
    samples=TRAINED,
)
"""Held-out training images chose the rate: of 1,200 at 96 x 96, two epochs at 0.001 brought 0.68 to
0.73; of 1,500 at 64 x 64, those at 0.005 lost half of 0.49, and those at 0.01 nearly all.
"""
SETTINGS = TRANSFER.model_copy(
    update={"epochs": EPOCHS, "optimizer": "adam", "learning_rate": 0.005, "distill": 0.5}
)


def enlarged(data: Path) -> Real:
    """MobileNetV2 with the 20 outputs, and the images at SIZE."""
    real = tiny_imagenet(data, 1)
    preprocessing = Preprocessing(mean=MEAN, std=STD, size=SIZE)
    train, test = (images(data, split, preprocessing) for split in ("train", "val"))
    task = Task(real.task.network, train, test, preprocessing=preprocessing)
    count = TESTS or len(test)
    inputs, labels = next(batches(test, np.arange(count), count))
    return replace(real, task=task, inputs=torch.from_numpy(inputs), labels=labels.astype(np.int64))


def images(data: Path, split: str, preprocessing: Preprocessing) -> ArrayImages:
    """The images of a split, decoded, with their labels."""
    with np.load(data / "tinyimagenet20a.npz", allow_pickle=False) as archive:
        blob, ends, labels = (archive[f"{split}_{part}"] for part in ("blob", "offsets", "y"))
    pixels = []
    for start, stop in pairwise(ends):
        with Image.open(io.BytesIO(blob[start:stop].tobytes())) as picture:
            pixels.append(np.asarray(picture.convert("RGB")))
    return ArrayImages(np.stack(pixels), labels.astype(np.int64), preprocessing)


def all_rows(real: Real, folder: Path) -> Iterator[Row]:
    """The transfer, then each way to prune what it ended with."""
    before = Bench(real, TRANSFER, folder)
    yield before.row("dense", 0, real.network)
    dense = deepcopy(real.network)
    fine_tune(dense, None, before)
    yield before.row("dense", TRANSFER.epochs, dense)
    bench = Bench(replace(real, network=dense), SETTINGS, folder)
    yield from bench.slimgate(MACS_RATIO, SAMPLES, (LeastSquares(steps=0),))
    yield from bench.torch_pruning(MACS_RATIO, SAMPLES, PEER_IMPORTANCE)


def main() -> None:
    options = parse_options(__doc__)
    real = enlarged(options.data)
    with options.folder() as folder:
        rows = list(told(timed(all_rows(real, folder))))
    report(rows, spread_of(rows, len(real.labels)), options)


if __name__ == "__main__":
    main()
