"""Whether times of layers alone foretell the time of a whole network that is pruned.

MobileNetV2 and ResNet-56 with trained weights, ResNet-18 and ResNet-50 with random ones, ONNX
Runtime and OpenVINO on one thread, fp32 and int8. Every layer is timed at many widths (stage
TimeLayers); then the dense network, one that keeps half of each group, and networks of random
widths are built whole and timed together, in random order, in one process. Rows: network, engine,
precision, plan, macs_ratio, predicted, fitted, measured, error, fitted_error.

- measured: the CPU time of the network over the dense one's
- predicted: the same by its layers alone, and what the dense network takes beyond them
- error: predicted / measured - 1
- fitted: the line through what was predicted of the dense and the half network and what was
  measured of them, as a search corrects itself; no error is told of these two
- plan "median" and "worst": of the random networks' errors, without their signs
- seconds (plan "table"): what timing the layers took

`--full`: 20 random networks each in place of 6, and all networks. Run it on an idle machine.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision
from common import Row, numbers, parse_options, report
from real import load, told
from torch import nn

from exporters.exporter import reported_distributions
from exporters.worker import CompareJob
from pipeline.data.arrays import FloatArray
from pipeline.measure.layer_bench import compared
from pipeline.measure.places import ThisMachine
from pipeline.network.costs import Counts
from pipeline.network.groups import make_plan
from pipeline.network.layer_times import NetworkTimes
from pipeline.network.plan import apply_plan
from pipeline.prune.channel_counts import Widths
from pipeline.prune.prunable import PrunableNetwork, find_prunable
from pipeline.stages.build import Build
from pipeline.stages.export import Export
from pipeline.stages.measured_target import MeasuredTarget
from pipeline.stages.time_layers import TimeLayers
from pipeline.store.artifacts import Checkpoint
from pipeline.task import Task
from profiles.device import DeviceProfile, load_device
from profiles.errors import StageError
from profiles.host import this_host

NETWORKS = ("mobilenet_v2", "resnet56", "resnet18", "resnet50")
RANDOM = ("resnet18", "resnet50")
"""Networks without trained weights, at 224."""
ENGINES = (("ort", "fp32"), ("ort", "int8"), ("openvino", "fp32"))
PLANS, MORE_PLANS = 6, 20
ROUNDS = 40
MULTIPLES = (4, 8, 16)

log = logging.getLogger("slimgate.benchmark")


class Noise:
    """Inputs for networks that know nothing."""

    targets = np.zeros(16, np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        generator = np.random.default_rng(index)
        return generator.standard_normal((3, 224, 224)).astype(np.float32), self.targets[index]


@dataclass(frozen=True)
class Case:
    """A network and the device that it is timed on."""

    name: str
    task: Task
    prunable: PrunableNetwork
    device: DeviceProfile
    folder: Path

    def times(self) -> NetworkTimes:
        """Of its layers alone."""
        build, out = self.build(), self.folder / "layers"
        out.mkdir()
        host = this_host(reported_distributions())
        stage = TimeLayers(target=MeasuredTarget(device=self.device, build=build, host=host))
        stage.run(self.source(self.task), out, self.folder / "scratch")
        return stage.load(self.source(self.task), out, "layers").times()

    def build(self) -> Build:
        return Build(engine=self.device.engine, options=self.device.options())

    def source(self, task: Task) -> Checkpoint:
        return Checkpoint(self.name, task, None, None)

    def engine(self, counts: Counts, name: str) -> Path:
        """The network that keeps the first units of each group, exported and built."""
        groups, network = self.prunable.groups, self.prunable.network
        units = {group.name: np.arange(counts[group.name]) for group in groups}
        pruned = apply_plan(network, make_plan(network, groups, units))
        task = replace(self.task, network=lambda: pruned)
        model, out = self.folder / f"{name} model", self.folder / f"{name} engine"
        model.mkdir()
        out.mkdir()
        Export().run(self.source(task), model, self.folder)
        self.build().make(Export().load(self.source(task), model, name), out)
        return self.build().path(out)

    def plans(self, count: int) -> dict[str, Counts]:
        """Dense, half, and some of random widths in multiples of 4, 8 or 16 each."""
        generator = np.random.default_rng(0)

        def drawn(least: float) -> Counts:
            return {
                group.name: Widths(int(generator.choice(MULTIPLES))).nearest(
                    group, group.size * generator.uniform(least, 1)
                )
                for group in self.prunable.groups
            }

        groups = self.prunable.groups
        return {
            "dense": {group.name: group.size for group in groups},
            "half": {group.name: Widths(8).nearest(group, group.size / 2) for group in groups},
            **{f"random {n}": drawn(generator.uniform(0.1, 0.7)) for n in range(count)},
        }


def rows(case: Case, count: int) -> Iterator[Row]:
    """Every plan of one network, and the errors in all."""
    start = time.perf_counter()
    times = case.times()
    model = replace(case.prunable.macs_model, times=(times,))
    seconds = time.perf_counter() - start
    plans = case.plans(count)
    engines = {
        name: case.build().engine_file(case.engine(counts, name)) for name, counts in plans.items()
    }
    job = CompareJob(engines=engines, batch=1, rounds=ROUNDS, seed=0)
    measured_ns = {
        name: median(rounds) for name, rounds in compared(ThisMachine(), job, "cpu").items()
    }
    costs = model.over(case.prunable.groups)
    dense_ms = measured_ns["dense"] / 1e6
    found = {name: costs.at(counts) for name, counts in plans.items()}
    predicted = {name: times.of_network(cost.time, dense_ms) for name, cost in found.items()}
    measured = {name: ns / measured_ns["dense"] for name, ns in measured_ns.items()}
    slope = (1 - measured["half"]) / (1 - predicted["half"])
    errors: list[tuple[float, float]] = []
    head: Row = {
        "network": case.name,
        "engine": case.device.engine,
        "precision": case.device.precision,
        "peer": None,
    }
    nothing = ("macs_ratio", "predicted", "fitted", "measured", "error", "fitted_error", "seconds")
    for name, cost in found.items():
        fitted = 1 - slope * (1 - predicted[name])
        both = predicted[name] / measured[name] - 1, fitted / measured[name] - 1
        is_random = name.startswith("random")
        if is_random:
            errors.append((abs(both[0]), abs(both[1])))
        yield {
            **head,
            "plan": name,
            "macs_ratio": cost.macs / found["dense"].macs,
            "predicted": predicted[name],
            "fitted": fitted,
            "measured": measured[name],
            "error": both[0] if is_random else None,
            "fitted_error": both[1] if is_random else None,
            "seconds": None,
        }
    for name, of in (("median", median), ("worst", max)):
        worst = {
            "error": of([raw for raw, _ in errors]),
            "fitted_error": of([f for _, f in errors]),
        }
        yield {**head, "plan": name, **dict.fromkeys(nothing), **worst}
    yield {**head, "plan": "table", **dict.fromkeys(nothing), "seconds": seconds}


def case(name: str, device: DeviceProfile, data: Path, folder: Path) -> Case:
    """A network with its groups, from the folder of data or of random weights."""
    if name in RANDOM:
        network: nn.Module = torchvision.models.get_model(name, weights=None).eval()
        task = Task(lambda: network, Noise(), Noise())
        example = torch.from_numpy(Noise()[0][0])[None]
    else:
        real = load(name, data, 2)
        network, task, example = real.network.eval(), real.task, real.example
    return Case(name, task, find_prunable(network, example), device, folder)


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Network by network."""
    host = load_device("host", data)
    for engine, precision in ENGINES:
        device = host.model_copy(update={"engine": engine, "precision": precision})
        for name in NETWORKS if full else NETWORKS[:2]:
            with TemporaryDirectory() as folder:
                one = case(name, device, data, Path(folder))
                try:
                    yield from rows(one, MORE_PLANS if full else PLANS)
                except StageError as error:  # the machine is too noisy
                    log.info("%s, %s %s: %s", name, engine, precision, error)


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    found = list(told(all_rows(options.data, options.full)))
    worst = [row for row in found if row["plan"] == "worst"]
    report(found, {"fitted_error": max(numbers(worst, "fitted_error"))}, options)


if __name__ == "__main__":
    main()
