"""What pruning costs, stage by stage: today's tree beside commit 0928fa2, and Torch-Pruning.

MobileNetV2 at 224 (64 images, .7 of the MACs) and ResNet-20 on CIFAR-10 (250 images, .5), chosen
by trial and repaired with the defaults, on one thread. `--full`: MobileNetV2 with 250 images and
ResNet-56 with 1,000, .5 and .3. Rows: network, macs_ratio, images, peer, tree, stage, seconds,
cpu_seconds, kernel_seconds, peak_rss_mib, floor_seconds, ratio, top1; a process for each tree.

- `stage`: groups, statistics, trials, repair; total, with top-1 on images that nobody calibrated on
- `floor_seconds`: CPU seconds of the passes that a stage cannot do without, timed in the same
  process over the same images: statistics, forward and backward, and forward for images and
  mixtures; trials, forward through the dense network and eight pruned ones; repair, forward of both
  networks for images and mixtures, and forward and backward of the pruned one for as many.
  `ratio` is cpu_seconds / floor_seconds
- peer torch-pruning: its Taylor, global, with the gradients of the same images, and our batch norm
  recalibration; its floor is forward and backward

0928fa2 is checked out into a temporary folder, and left out where git does not have it.
"""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pipeline_stages
import torch
from common import Row, parse_options, report, standard_error
from real import load, prepare, told

TREES = ("now", "0928fa2")
TESTS = 1000
STAGES = ("groups", "statistics", "trials", "repair")
TRIALS = 8
HERE = Path(__file__).resolve().parent

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Case:
    """One pruning."""

    network: str
    weights: str
    images: int
    macs_ratio: float


QUICK = (
    Case("mobilenet_v2", "imagenet_mobilenet_v2.safetensors", 64, 0.7),
    Case("resnet20", "cifar10_resnet20.safetensors", 250, 0.5),
)
FULL = (
    Case("mobilenet_v2", "imagenet_mobilenet_v2.safetensors", 250, 0.7),
    Case("resnet56", "cifar10_resnet56.safetensors", 1000, 0.5),
    Case("resnet56", "cifar10_resnet56.safetensors", 1000, 0.3),
)


@contextmanager
def tree_of(name: str) -> Iterator[Path | None]:
    """The root of a tree; None where git does not have it."""
    root = HERE.parent.parent
    if name == "now":
        yield root
        return
    with TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        git = ["git", "-C", str(root), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(place), name], capture_output=True)
        if added.returncode:
            log.info("%s is not measured: %s", name, added.stderr.decode().strip())
            yield None
            return
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def row(case: Case, peer: str | None, tree: str, stage: str, figures: dict[str, float]) -> Row:
    """A row; what `figures` does not have is null."""
    floor, spent = figures.get("floor_seconds"), figures["cpu_seconds"]
    names = ("seconds", "cpu_seconds", "kernel_seconds", "peak_rss_mib", "floor_seconds")
    return {
        "network": case.network,
        "macs_ratio": case.macs_ratio,
        "images": float(case.images),
        "peer": peer,
        "tree": tree,
        "stage": stage,
        **{name: figures.get(name) for name in names},
        "ratio": spent / floor if floor else None,
        "top1": figures.get("top1"),
    }


def floors(passes: dict[str, dict[str, float]], macs_ratio: float) -> dict[str, float]:
    """CPU seconds of the passes that each stage needs at least."""
    forward = passes["forward"]["cpu_seconds"]
    both = passes["forward and backward"]["cpu_seconds"]
    return {
        "statistics": both + 2 * forward,
        "trials": (1 + TRIALS * macs_ratio) * forward,
        "repair": 2 * (1 + macs_ratio) * forward + 2 * macs_ratio * both,
    }


def tree_rows(case: Case, tree: str, root: Path, data: Path, samples: Path) -> Iterator[Row]:
    """The stages of one tree, in a process of its own."""
    program = [sys.executable, str(HERE / "pipeline_stages.py"), tree, str(samples), case.network]
    found = subprocess.run(
        [*program, str(data / case.weights), str(case.macs_ratio)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        cwd=root,
        check=True,
    )
    answer = json.loads(found.stdout)
    stages: dict[str, dict[str, float]] = answer["stages"]
    least = floors(stages, case.macs_ratio)
    for name in STAGES:
        floor = {"floor_seconds": least[name]} if name in least else {}
        yield row(case, None, tree, name, {**stages[name], **floor})
    total = {
        figure: sum(stages[name][figure] for name in STAGES)
        for figure in ("seconds", "cpu_seconds", "kernel_seconds")
    }
    total["peak_rss_mib"] = max(stages[name]["peak_rss_mib"] for name in STAGES)
    total |= {"floor_seconds": sum(least.values()), "top1": answer["top1"]}
    yield row(case, None, tree, "total", total)


def peer_row(case: Case, data: Path, floor: float) -> Row:
    """Torch-Pruning on the same images, without finding our groups."""
    from peers import PEER, pruned_by_peer, recovered

    from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate

    prepared = prepare(load(case.network, data, TESTS), case.images, 0, frozenset())
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    (found,) = pruned_by_peer(prepared, "taylor", "global", [case.macs_ratio])
    network = found.network and recovered(found.network, prepared, [BnRecalibrate()])
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    figures = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": after.ru_utime - before.ru_utime + kernel,
        "kernel_seconds": kernel,
        "floor_seconds": floor,
    }
    if network is not None:
        figures["top1"] = prepared.real.top1(network)
    return row(case, PEER, "now", "total", figures)


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Case by case: each tree, and the peer."""
    for case in FULL if full else QUICK:
        with TemporaryDirectory() as folder:
            samples = Path(folder) / "case.npz"
            real = load(case.network, data, TESTS)
            calibration = real.calibration(case.images)
            np.savez(
                samples,
                inputs=calibration.inputs.numpy(),
                targets=calibration.targets,
                tests=real.inputs.numpy(),
                labels=real.labels,
            )
            clock = pipeline_stages.Clock()
            targets = np.asarray(calibration.targets, np.int64)
            pipeline_stages.passes(real.network, calibration.inputs, targets, clock)
            for tree in TREES:
                with tree_of(tree) as root:
                    if root is not None:
                        yield from tree_rows(case, tree, root, data, samples)
        yield peer_row(case, data, clock.stages["forward and backward"]["cpu_seconds"])


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    rows = list(told(all_rows(options.data, options.full)))
    report(rows, {"top1": standard_error(0.5, 250)}, options)


if __name__ == "__main__":
    main()
