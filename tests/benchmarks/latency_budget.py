"""Whether a network that is pruned to a time takes that time, and nearly all of it.

MobileNetV2 at 224 and ResNet-56 at 32, trained weights, ONNX Runtime on one thread, fp32, each to
0.8, 0.6 and 0.4 of the dense engine's median CPU time (`latency_p50_ratio`), one way to choose
channels (reconstruction) in the device's widths. Rows: network, engine, precision, method, peer,
budget, measured, lower, upper, builds, macs_ratio, bought, hit, seconds.

- measured, lower, upper: the ratio of the network that was taken, exported, built and measured once
  more, by itself, with the bounds of the gate; `hit` is 1 where `upper` is within the budget and
  `measured` at most 3 % below it
- builds: whole networks that the search built and measured, the dense one not counted
- bought: (1 - measured) / (1 - macs_ratio): the time that a removed MAC took with it
- seconds: the search, with calibration, building and measuring

`--full`: int8 and OpenVINO as well. Run it on an idle machine.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import Row, latency_figures, numbers, parse_options, report
from real import Real, load, told

from exporters.exporter import reported_distributions
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, Measure, time_engines, timing_of
from pipeline.prune.choose import Selection
from pipeline.stages.build import Build
from pipeline.stages.export import Export
from pipeline.stages.measured_target import BudgetedTarget
from pipeline.stages.prune import Prune
from pipeline.stages.prune_to_budget import PruneToBudget
from pipeline.store.artifacts import Checkpoint
from profiles.budget import Budget
from profiles.device import DeviceProfile, load_device
from profiles.errors import StageError
from profiles.host import this_host

BUDGETS = (0.8, 0.6, 0.4)
SAMPLES = {"mobilenet_v2": 64, "resnet56": 250}
ENGINES = (("ort", "fp32"), ("ort", "int8"), ("openvino", "fp32"))
NEAR = 0.97
"""The part of the budget that has to be used."""

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Case:
    """A network and the device that it is pruned for."""

    real: Real
    device: DeviceProfile
    folder: Path

    @property
    def source(self) -> Checkpoint:
        return Checkpoint(self.real.name, self.real.task, None, None)

    def stage(self, budget: float) -> PruneToBudget:
        """The search, on this machine."""
        ways = Selection()
        target = BudgetedTarget(
            name="host",
            device=self.device,
            budget=Budget(latency_p50_ratio=budget),
            build=self.build(),
            host=this_host(reported_distributions()),
        )
        prune = Prune(
            criterion=ways.criterion,
            allocator=ways.allocator,
            preferred_multiple=self.device.channel_multiple,
            samples=SAMPLES[self.real.name],
        )
        return PruneToBudget(prune=prune, export=Export(), measure=Measure(), targets=(target,))

    def build(self) -> Build:
        return Build(engine=self.device.engine, options=self.device.options())

    def engine(self, network: Checkpoint, name: str) -> Path:
        """Exported and built by itself."""
        model, engine = self.folder / f"{name} model", self.folder / f"{name} engine"
        model.mkdir()
        engine.mkdir()
        Export().run(network, model, self.folder)
        self.build().make(Export().load(network, model, name), engine)
        return self.build().path(engine)


def row(case: Case, budget: float) -> Row:
    """One search, and its outcome measured again."""
    stage, out = case.stage(budget), case.folder / f"{budget}"
    out.mkdir()
    start = time.perf_counter()
    stage.run(case.source, out, case.folder / f"{budget} scratch")
    seconds = time.perf_counter() - start
    found = stage.load(case.source, out, str(budget))
    pair = EnginePair(
        case.build().engine_file(case.engine(case.source, f"{budget} dense")),
        case.build().engine_file(case.engine(found, f"{budget} shipped")),
    )
    timing = timing_of(case.device, stage.targets[0].budget, stage.measure)
    figures = latency_figures(time_engines(ThisMachine(), pair, timing))
    measured, upper = figures["latency_ratio"], figures["latency_upper"]
    assert isinstance(measured, float)
    assert isinstance(upper, float)
    macs_ratio = found.report().macs_ratio
    return {
        **missed(case, budget),
        "measured": measured,
        "lower": figures["latency_lower"],
        "upper": upper,
        "builds": float(len(found.report().built) - 1),
        "macs_ratio": macs_ratio,
        "bought": (1 - measured) / (1 - macs_ratio),
        "hit": float(NEAR * budget <= measured and upper <= budget),
        "seconds": seconds,
    }


def missed(case: Case, budget: float) -> Row:
    """The row of a search that found no network."""
    nothing = ("measured", "lower", "upper", "builds", "macs_ratio", "bought")
    return {
        "network": case.real.name,
        "engine": case.device.engine,
        "precision": case.device.precision,
        "method": "whole networks",
        "peer": None,
        "budget": budget,
        **dict.fromkeys(nothing),
        "hit": 0.0,
        "seconds": None,
    }


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Network by network, budget by budget."""
    host = load_device("host", data)
    for name in SAMPLES:
        for engine, precision in ENGINES if full else ENGINES[:1]:
            device = host.model_copy(update={"engine": engine, "precision": precision})
            with TemporaryDirectory() as folder:
                case = Case(load(name, data, 1), device, Path(folder))
                for budget in BUDGETS:
                    try:
                        yield row(case, budget)
                    except StageError as error:  # four networks did not do
                        log.info("%s at %.1f: %s", name, budget, error)
                        yield missed(case, budget)


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    rows = list(told(all_rows(options.data, options.full)))
    widths = zip(numbers(rows, "upper"), numbers(rows, "measured"), strict=True)
    report(rows, {"measured": max(upper - middle for upper, middle in widths)}, options)


if __name__ == "__main__":
    main()
