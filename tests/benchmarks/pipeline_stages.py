"""One pruning, stage by stage, in the tree of slimgate that PYTHONPATH names, today's or 0928fa2's.

A program of its own for `pipeline_cost.py`: `pipeline_stages.py TREE CASE.npz NETWORK WEIGHTS
MACS_RATIO` prints one JSON object. Nothing is imported from slimgate but what the stages run.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from cifar_resnet import resnet20, resnet56
from safetensors.torch import load_file
from torch import Tensor, nn

BATCH = 25
Stages = Callable[[nn.Module, Tensor, "Targets", float, "Clock"], nn.Module]
Targets = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Clock:
    """Seconds, CPU seconds and the peak of memory of each stage, in the order they ran."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside is the stage `name`."""
        Path("/proc/self/clear_refs").write_text("5")
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        yield
        after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
        kernel = after.ru_stime - before.ru_stime
        self.stages[name] = {
            "seconds": seconds,
            "cpu_seconds": after.ru_utime - before.ru_utime + kernel,
            "kernel_seconds": kernel,
            "peak_rss_mib": _peak_mib(),
        }


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def run_now(
    network: nn.Module, inputs: Tensor, targets: Targets, macs_ratio: float, clock: Clock
) -> nn.Module:
    """The stages of `prune_calibrated` with its defaults."""
    from pipeline.api import AUTO
    from pipeline.network.calibration import calibration_of_batches
    from pipeline.network.plan import apply_plan
    from pipeline.prune.channel_counts import Limits
    from pipeline.prune.prunable import find_prunable
    from pipeline.prune.statistics import needs_of, statistics
    from pipeline.prune.trials import choose_by_trial, trial_setup
    from pipeline.repair.chain import repair
    from pipeline.repair.recoveries.least_squares import LeastSquares
    from pipeline.task import cross_entropy

    calibration = calibration_of_batches([(inputs, targets)])
    with clock.stage("groups"):
        prunable = find_prunable(network, inputs[:1])
    with clock.stage("statistics"):
        needs = needs_of([one.criterion for one in AUTO], [one.allocator for one in AUTO])
        stats = statistics(prunable, calibration, cross_entropy, needs)
    with clock.stage("trials"):
        limits = Limits(macs=macs_ratio * prunable.macs)
        setup = trial_setup(network, calibration, cross_entropy)
        choice, _ = choose_by_trial(prunable, stats, AUTO, limits, setup)
    with clock.stage("repair"):
        small = apply_plan(network, choice.plan)
        chain = (LeastSquares(),)
        reports = repair(small, network, choice.plan, chain, calibration, cross_entropy)
    _tell(type(choice.selection.criterion), type(choice.selection.allocator), reports)
    return small


def run_0928fa2(
    network: nn.Module, inputs: Tensor, targets: Targets, macs_ratio: float, clock: Clock
) -> nn.Module:
    """The same stages where that tree has them."""
    room = {
        name: import_module(f"pipeline.{name}")
        for name in ("allocation", "auto", "calibration", "plan", "pruning", "repair", "task")
    }
    pruning, auto, loss = room["pruning"], room["auto"], room["task"].cross_entropy
    options = import_module("pipeline.stages.prune")
    least_squares = import_module("pipeline.recoveries.least_squares").LeastSquares()
    criteria, allocators = options.AUTO_CRITERIA, options.AUTO_ALLOCATORS
    calibration = room["calibration"].calibration_from([(inputs, targets)])
    with clock.stage("groups"):
        subject = pruning.subject_of(network, inputs[:1])
    with clock.stage("statistics"):
        needs = pruning.needs_of(criteria, allocators)
        stats = pruning.statistics(subject, calibration, loss, needs)
    with clock.stage("trials"):
        limits = room["allocation"].Limits(macs=macs_ratio * subject.macs)
        course = auto.course_of(network, calibration, loss)
        widths = pruning.Widths()
        picked = auto.pick(subject, stats, course, criteria, allocators, limits, widths)
    with clock.stage("repair"):
        small: nn.Module = room["plan"].apply_plan(network, picked.choice.plan)
        plan = picked.choice.plan
        reports = room["repair"].repair(small, network, plan, (least_squares,), calibration, loss)
    _tell(type(picked.criterion), type(picked.allocator), reports)
    return small


def _tell(criterion: type, allocator: type, reports: object) -> None:
    print(criterion.__name__, allocator.__name__, reports, file=sys.stderr)


TREES: Mapping[str, Stages] = {"now": run_now, "0928fa2": run_0928fa2}


def build(name: str, weights: Path) -> nn.Module:
    """The trained network, in eval mode."""
    if name == "mobilenet_v2":
        from torchvision.models import mobilenet_v2 as make
    else:
        make = {"resnet20": resnet20, "resnet56": resnet56}[name]
    network: nn.Module = make()
    network.load_state_dict(load_file(weights), strict=False)  # no num_batches_tracked in it
    return network.eval()


def passes(network: nn.Module, inputs: Tensor, targets: Targets, clock: Clock) -> None:
    """A plain forward pass, and forward and backward, of all samples."""
    labels = torch.from_numpy(targets)
    with clock.stage("forward"), torch.no_grad():
        for part in inputs.split(BATCH):
            network(part)
    with clock.stage("forward and backward"):
        for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
            nn.functional.cross_entropy(network(part), wanted).backward()
    network.zero_grad(set_to_none=True)


def top1(network: nn.Module, inputs: Tensor, labels: Targets) -> float:
    """The part of the test images that `network` is right on."""
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in inputs.split(BATCH)])
    return float(np.mean(found.numpy() == labels))


def main() -> None:
    tree, case, name, weights, macs_ratio = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    arrays = np.load(case, allow_pickle=False)
    inputs, targets = torch.from_numpy(arrays["inputs"]), arrays["targets"]
    network, clock = build(name, Path(weights)), Clock()
    with torch.no_grad():
        network(inputs[:1])  # warms up
    small = TREES[tree](network, inputs, targets, float(macs_ratio), clock)
    # After the stages: neither these passes nor the tests count to the memory of them.
    passes(network, inputs, targets, clock)
    right = top1(small.eval(), torch.from_numpy(arrays["tests"]), arrays["labels"])
    print(json.dumps({"stages": clock.stages, "top1": right}))


if __name__ == "__main__":
    main()
