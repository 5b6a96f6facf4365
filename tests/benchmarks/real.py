"""The trained networks and real data that benchmarks share, from the folder of `--data`."""

import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cifar_resnet
import numpy as np
import torch
from common import Row
from torch import Tensor, nn

from pipeline.data.arrays import Bytes, IntArray, Targets
from pipeline.data.batches import batches
from pipeline.data.images import ArrayImages, Preprocessing
from pipeline.network.calibration import Calibration, calibration_of_task
from pipeline.network.plan import apply_plan
from pipeline.network.weights import load_weights, read_weights
from pipeline.prune.allocators import Allocator
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Selection, choose
from pipeline.prune.criteria import Criterion
from pipeline.prune.prunable import PrunableNetwork, find_prunable, verify
from pipeline.prune.statistics import statistics
from pipeline.repair.chain import repair
from pipeline.repair.recoveries import Recovery
from pipeline.scoring.collect import LayerStats, Need
from pipeline.task import Task, cross_entropy

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = ("resnet20", "resnet56")
IMAGENET = ("mobilenet_v2", "squeezenet1_1")
BATCH = 100
CPU = torch.device("cpu")

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Real:
    """A trained network, in eval mode, and its data; `task.validation` is what it is tested on."""

    name: str
    network: nn.Module
    task: Task
    inputs: Tensor
    """[n, 3, size, size]: the test images."""
    labels: IntArray
    """[n]"""

    @property
    def example(self) -> Tensor:
        return self.inputs[:1]

    def calibration(self, samples: int, seed: int = 0) -> Calibration:
        """Training images of every class alike."""
        return calibration_of_task(self.task, samples, seed, CPU, None)

    def top1(self, network: nn.Module) -> float:
        """The part of the test images that `network` is right on."""
        network.eval()
        with torch.no_grad():
            found = [network(part).argmax(1) for part in self.inputs.split(BATCH)]
        return float(np.mean(torch.cat(found).numpy() == self.labels))


@dataclass(frozen=True)
class Prepared:
    """A network with the statistics that all criteria share; `seconds` is what those took."""

    real: Real
    prunable: PrunableNetwork
    calibration: Calibration
    stats: dict[str, LayerStats]
    seconds: float

    def choice(
        self, criterion: Criterion, allocator: Allocator, macs_ratio: float | None
    ) -> Choice:
        """The verified plan for `macs_ratio`, or at the allocator's own ratio for None."""
        limits = None if macs_ratio is None else Limits(macs=macs_ratio * self.prunable.macs)
        found = choose(self.prunable, self.stats, Selection(criterion, allocator), limits)
        verify(self.prunable, found.plan, self.calibration.inputs[:1])
        return found

    def macs_ratio(self, choice: Choice) -> float:
        """MACs kept / dense MACs."""
        return self.prunable.macs_at(choice.counts()) / self.prunable.macs

    def repaired(self, choice: Choice, chain: Sequence[Recovery]) -> nn.Module:
        """The network without the channels, repaired by `chain`."""
        network = apply_plan(self.real.network, choice.plan)
        for done in repair(
            network, self.real.network, choice.plan, chain, self.calibration, cross_entropy
        ):
            if not done.kept:
                log.info("  %s made it worse and was undone", done.name)
        return network


def prepare(real: Real, samples: int, seed: int, needs: frozenset[Need]) -> Prepared:
    """Find the groups and collect `needs` on `samples` training images."""
    calibration = real.calibration(samples, seed)
    start = time.perf_counter()
    prunable = find_prunable(real.network, calibration.inputs[:1])
    stats = statistics(prunable, calibration, cross_entropy, needs)
    seconds = time.perf_counter() - start
    log.info("%s: statistics of %d groups, %.1f s", real.name, len(prunable.groups), seconds)
    return Prepared(real, prunable, calibration, stats, seconds)


def told(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each on stderr as it comes, so that an interrupted run still tells."""
    for row in rows:
        log.info("%s", json.dumps(row))
        yield row


def load(name: str, data: Path, tests: int | None = None) -> Real:
    """A CIFAR-10 ResNet or an ImageNet network, tested on the first `tests` images or on all."""
    if name in CIFAR:
        return _cifar(name, data, tests)
    if name in IMAGENET:
        return _imagenet(name, data, tests)
    raise ValueError(f"no network is named {name}; there are {', '.join((*CIFAR, *IMAGENET))}")


def tiny_imagenet(data: Path, tests: int | None = None) -> Real:
    """MobileNetV2 with the outputs of 20 ImageNet classes, on Tiny-ImageNet enlarged to 224."""
    with np.load(data / "tinyimagenet20a.npz", allow_pickle=False) as archive:
        train = _decoded(archive["train_blob"], archive["train_offsets"])
        validation = _decoded(archive["val_blob"], archive["val_offsets"])
        labels = archive["train_y"], archive["val_y"]
        classes = torch.from_numpy(archive["imagenet_index"].astype(np.int64))
    weights = _build("mobilenet_v2", data).state_dict()
    for key in ("classifier.1.weight", "classifier.1.bias"):
        weights[key] = weights[key][classes].clone()

    def build() -> nn.Module:
        from torchvision.models import mobilenet_v2

        network: nn.Module = mobilenet_v2(num_classes=len(classes))
        load_weights(network, weights, "the 20 classes")
        return network.eval()

    preprocessing = Preprocessing(mean=MEAN, std=STD, size=224)
    task = _task(build, preprocessing, (train, validation), labels)
    return _real("mobilenet_v2_tiny", task, tests)


def _cifar(name: str, data: Path, tests: int | None) -> Real:
    with np.load(data / "cifar10.npz", allow_pickle=False) as archive:
        images = archive["train_x"], archive["test_x"]
        labels = archive["train_y"], archive["test_y"]
    preprocessing = Preprocessing(mean=MEAN, std=STD, size=32)
    return _real(name, _task(lambda: _build(name, data), preprocessing, images, labels), tests)


def _imagenet(name: str, data: Path, tests: int | None) -> Real:
    """Half of the images, every second class, calibrate; the other half, of other classes, test."""
    with np.load(data / "imagenet500a.npz", allow_pickle=False) as archive:
        images = _decoded(archive["blob"], archive["offsets"])
        label = archive["label"]
    preprocessing = Preprocessing(mean=MEAN, std=STD, size=224, resize=256)
    halves, labels = (images[::2], images[1::2]), (label[::2], label[1::2])
    return _real(name, _task(lambda: _build(name, data), preprocessing, halves, labels), tests)


def _build(name: str, data: Path) -> nn.Module:
    """The network with its trained weights."""
    if name in CIFAR:
        network = {"resnet20": cifar_resnet.resnet20, "resnet56": cifar_resnet.resnet56}[name]()
        path = data / f"cifar10_{name}.safetensors"
    else:
        from torchvision import models

        network = getattr(models, name)()
        path = data / f"imagenet_{name}.safetensors"
    load_weights(network, read_weights(path), name)
    return network.eval()


def _task(
    build: Callable[[], nn.Module],
    preprocessing: Preprocessing,
    images: tuple[Bytes, Bytes],
    labels: tuple[Targets, Targets],
) -> Task:
    train, validation = (
        ArrayImages(x, np.asarray(y, np.int64), preprocessing)
        for x, y in zip(images, labels, strict=True)
    )
    return Task(network=build, train=train, validation=validation, preprocessing=preprocessing)


def _real(name: str, task: Task, tests: int | None) -> Real:
    count = len(task.validation) if tests is None else min(tests, len(task.validation))
    inputs, labels = next(batches(task.validation, np.arange(count), count))
    return Real(
        name, task.network(), task, torch.from_numpy(inputs), np.asarray(labels, dtype=np.int64)
    )


def _decoded(blob: Bytes, ends: IntArray) -> Bytes:
    """All images of a blob of files, [n, height, width, 3]."""
    from PIL import Image

    pictures = []
    for start, stop in pairwise(ends):
        with Image.open(io.BytesIO(blob[start:stop].tobytes())) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return np.stack(pictures)
