"""What scoring costs: one pass of Stats beside a plain forward and backward pass.

Rows: network, what, peer, extra, seconds_ratio, memory_ratio, images, plain_seconds, plain_mib.
Ratios are to a plain pass over the same images in the same batches: forward, loss, backward to
every parameter, batch norm in eval mode. `seconds_ratio`
is CPU seconds on one thread, interleaved, the median of the rounds; `memory_ratio` what each adds
to the resident memory of a fresh process at its peak. `extra` is true for what is paid only when
asked for: relevance, and the consumers' second moments.

- plain: the plain pass against itself
- stats: one pass for all criteria built on gradients, activations and weights
- stats and scores: the same, and every group scored by each of those criteria
- scores, peer torch-pruning: its seven importances of every group one after another, with the
  forward and backward pass that Taylor needs: random, L1, L2, FPGM, batch norm's scale, LAMP,
  Taylor

- relevance and second moments: each alone, as a pass of its own; the latter eliminates too

Finding the groups is outside of every figure. `--full` takes more images and rounds.
"""

import io
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from cifar_resnet import resnet56
from common import Row, parse_options, report
from PIL import Image
from torch import nn

from pipeline.data.arrays import Bytes
from pipeline.data.images import Preprocessing
from pipeline.network.groups import Group, find_groups
from pipeline.network.weights import load_weights, read_weights
from pipeline.prune.criteria import Criterion, group_scores
from pipeline.prune.criteria.activation import Activation
from pipeline.prune.criteria.beta_rank import BetaRank
from pipeline.prune.criteria.bn_scale import BnScale
from pipeline.prune.criteria.fluctuation import Fluctuation
from pipeline.prune.criteria.geometric import Geometric
from pipeline.prune.criteria.gradient_magnitude import GradientMagnitude
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.offset import Offset
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.statistics import MOMENT_ROWS
from pipeline.scoring.collect import Batch, LayerStats, Need, collect
from pipeline.scoring.second_moments import eliminations
from pipeline.task import cross_entropy
from profiles.machine.memory import reset_peak, resident

NETWORKS = ("resnet56", "mobilenet_v2")
IMAGES = {"resnet56": (256, 1024), "mobilenet_v2": (96, 256)}
ROUNDS = (5, 11)
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CRITERIA: tuple[Criterion, ...] = (
    Pro(),
    Pro(filter="folded", place="output", accumulation="absolute"),
    Offset(),
    Offset(per_position=True),
    Taylor(),
    Magnitude(order=1),
    Magnitude(order=2),
    Geometric(),
    BnScale(),
    Random(),
    Fluctuation(),
    Activation(),
    GradientMagnitude(),
    BetaRank(),
)
ORDINARY: frozenset[Need] = frozenset[Need]().union(*(one.needs for one in CRITERIA))


@dataclass(frozen=True)
class Case:
    """A trained network, its groups, and images of it."""

    network: nn.Module
    groups: tuple[Group, ...]
    batches: tuple[Batch, ...]

    def stats(self, needs: frozenset[Need]) -> dict[str, LayerStats]:
        return collect(self.network, self.groups, self.batches, cross_entropy, needs)


def load(name: str, data: Path, count: int) -> Case:
    """The network `name` with `count` images in batches."""
    if name == "resnet56":
        network = resnet56()
        load_weights(network, read_weights(data / "cifar10_resnet56.safetensors"), name)
        preprocessing = Preprocessing(mean=MEAN, std=STD, size=32)
        with np.load(data / "cifar10.npz", allow_pickle=False) as archive:
            images, labels = archive["train_x"][:count], archive["train_y"][:count]
    else:
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2()
        load_weights(network, read_weights(data / "imagenet_mobilenet_v2.safetensors"), name)
        preprocessing = Preprocessing(mean=MEAN, std=STD, size=224, resize=256)
        with np.load(data / "imagenet500a.npz", allow_pickle=False) as archive:
            blob, ends, labels = archive["blob"], archive["offsets"], archive["label"][:count]
        images = [_decoded(blob[a:b]) for a, b in pairwise(ends[: count + 1])]
    inputs = np.stack([preprocessing(image) for image in images])
    targets = np.asarray(labels, np.int64)
    batches = [(inputs[i : i + BATCH], targets[i : i + BATCH]) for i in range(0, count, BATCH)]
    network.eval()
    groups = find_groups(network, torch.from_numpy(inputs[:1])).groups
    return Case(network, groups, tuple(batches))


def _decoded(raw: Bytes) -> Bytes:
    with Image.open(io.BytesIO(raw.tobytes())) as picture:
        return np.asarray(picture.convert("RGB"))


def plain(case: Case) -> None:
    """Forward and backward to every parameter."""
    case.network.requires_grad_(True)
    for inputs, targets in case.batches:
        outputs = case.network(torch.from_numpy(inputs))
        cross_entropy(outputs, torch.from_numpy(targets)).backward()
    case.network.zero_grad(set_to_none=True)


def stats(case: Case) -> None:
    case.stats(ORDINARY)


def stats_and_scores(case: Case) -> None:
    found = case.stats(ORDINARY)
    for group in case.groups:
        for criterion in CRITERIA:
            group_scores(criterion, group, found)


def relevance(case: Case) -> None:
    case.stats(frozenset({"relevance"}))


def second_moments(case: Case) -> None:
    """The consumers' moments and every group's elimination."""
    inputs = torch.from_numpy(np.concatenate([images for images, _ in case.batches]))
    eliminations(case.network, case.groups, inputs, MOMENT_ROWS)


def torch_pruning_scores(case: Case) -> Callable[[], None]:
    """Torch-Pruning's importances, ready to run on its own groups."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.from_numpy(case.batches[0][0][:1])
        graph.build_dependency(case.network.requires_grad_(True), example, verbose=False)
    groups = list(graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)))
    kinds = torch_pruning.importance
    importances = [
        kinds.RandomImportance(),
        kinds.MagnitudeImportance(p=1),
        kinds.MagnitudeImportance(p=2),
        kinds.FPGMImportance(),
        kinds.BNScaleImportance(),
        kinds.LAMPImportance(),
    ]

    def run() -> None:
        for importance in importances:
            for group in groups:
                importance(group)
        case.network.zero_grad(set_to_none=True)
        for inputs, targets in case.batches:
            outputs = case.network(torch.from_numpy(inputs))
            cross_entropy(outputs, torch.from_numpy(targets)).backward()
        taylor = kinds.TaylorImportance()
        for group in groups:
            taylor(group)
        case.network.zero_grad(set_to_none=True)

    return run


def ready(way: Callable[[Case], None]) -> Callable[[Case], Callable[[], None]]:
    """A way that has nothing to prepare."""
    return lambda case: lambda: way(case)


@dataclass(frozen=True)
class Way:
    """One thing to measure; `prepare` does what is outside of the figures."""

    what: str
    prepare: Callable[[Case], Callable[[], None]]
    peer: str | None = None
    extra: bool = False


WAYS = (
    Way("plain", ready(plain)),
    Way("stats", ready(stats)),
    Way("stats and scores", ready(stats_and_scores)),
    Way("scores", torch_pruning_scores, peer="torch-pruning"),
    Way("relevance", ready(relevance), extra=True),
    Way("second moments", ready(second_moments), extra=True),
)


def seconds(name: str, data: Path, count: int, rounds: int) -> list[list[float]]:
    """CPU seconds of each way, a list of rounds each; the plain pass twice, first and last."""
    torch.set_num_threads(1)
    case = load(name, data, count)
    runs = [way.prepare(case) for way in (*WAYS, WAYS[0])]
    found: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, times in zip(runs, found, strict=True):
            start = time.process_time()
            run()
            if turn:  # the first round warms up
                times.append(time.process_time() - start)
    return found


def peak(name: str, data: Path, count: int, place: int) -> float:
    """MiB that a way, by its place in WAYS, adds at its peak. Meant for a fresh process."""
    torch.set_num_threads(1)
    run = WAYS[place].prepare(load(name, data, count))
    reset_peak()
    before = resident().now_mib
    run()
    return resident().peak_mib - before


def alone(name: str, data: Path, count: int, place: int) -> float:
    """`peak` in a process of its own."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(peak, name, data, count, place).result()


def ratios(times: Sequence[float], to: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(times, to, strict=True)]


def rows_of(name: str, data: Path, full: bool, spread: dict[str, float]) -> Iterator[Row]:
    """The rows of one network; what equal runs differ by goes into `spread`."""
    count, rounds = IMAGES[name][full], ROUNDS[full]
    times = seconds(name, data, count, rounds)
    memory = [alone(name, data, count, place) for place in range(len(WAYS))]
    again = alone(name, data, count, 0)
    for place, way in enumerate(WAYS):
        control = place == 0
        yield {
            "network": name,
            "what": way.what,
            "peer": way.peer,
            "extra": way.extra,
            "seconds_ratio": statistics.median(ratios(times[-1 if control else place], times[0])),
            "memory_ratio": (again if control else memory[place]) / memory[0],
            "images": float(count),
            "plain_seconds": statistics.median(times[0]),
            "plain_mib": memory[0],
        }
    each = {
        "seconds_ratio": statistics.stdev(ratios(times[-1], times[0])),
        "memory_ratio": abs(again / memory[0] - 1),
    }
    for figure, value in each.items():
        spread[figure] = max(spread.get(figure, 0.0), value)


def main() -> None:
    options = parse_options(__doc__)
    spread: dict[str, float] = {}
    rows = [row for name in NETWORKS for row in rows_of(name, options.data, options.full, spread)]
    report(rows, spread, options)


if __name__ == "__main__":
    main()
