"""Whether a network that is pruned to a time takes that time, nearly all of it, and answers well.

MobileNetV2 at 224 and ResNet-56 at 32, trained weights, ONNX Runtime on one thread, fp32, each to
0.8, 0.6 and 0.4 of the dense engine's median CPU time (`latency_p50_ratio`), channels chosen by
reconstruction, then repaired without training. Rows: network, engine, precision, method, peer,
budget, measured, lower, upper, builds, macs_ratio, bought, hit, top1, seconds.

- method "by time": the times of layers alone say which widths are kept (stage TimeLayers, whose
  seconds are the row "table"); "by MACs": multiples of the device's channels, whole networks only
- peer torch-pruning (MobileNetV2): six of its settings, each at falling parts of the MACs, all of
  them built and timed in one process; of each setting the largest network within 1 % of the budget,
  batch norm recalibrated; the row is the best of the six by top-1. Its widths are not rounded,
  which costs it time
- measured, lower, upper: the ratio of the network that was taken, exported, built and measured once
  more, by itself, with the bounds of the gate; `hit` is 1 where `upper` is within the budget and
  `measured` at most 3 % below it. The peer's `measured` is of the one process, without bounds
- builds: whole networks that the search built and measured, the dense one not counted
- bought: (1 - measured) / (1 - macs_ratio): the time that a removed MAC took with it
- seconds: the search, with calibration, building and measuring; `top1` is on test images

`--full`: OpenVINO, by MACs, as well. Run it on an idle machine.
"""

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from common import Row, latency_figures, numbers, parse_options, report
from peers import PEER, SCOPES, PeerResult, pruned_by_peer, recovered
from real import Real, load, prepare, told
from torch import nn

from exporters.exporter import reported_distributions
from exporters.worker import CompareJob
from pipeline.measure.layer_bench import compared
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, Measure, time_engines, timing_of
from pipeline.network.plan import PruningPlan
from pipeline.prune.choose import Selection
from pipeline.repair.chain import repair
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.stages.build import Build
from pipeline.stages.export import Export
from pipeline.stages.measured_target import BudgetedTarget
from pipeline.stages.prune import Prune
from pipeline.stages.prune_to_budget import PruneToBudget
from pipeline.stages.time_layers import TimeLayers
from pipeline.store.artifacts import Checkpoint, Pruned, TimedLayers
from pipeline.task import cross_entropy
from profiles.budget import Budget
from profiles.device import DeviceProfile, load_device
from profiles.errors import StageError
from profiles.host import this_host
from profiles.spec import read_spec

BUDGETS = (0.8, 0.6, 0.4)
SAMPLES = {"mobilenet_v2": 64, "resnet56": 250}
MORE_ENGINES = ("openvino",)
TESTS = {"mobilenet_v2": 250, "resnet56": 1000}
PEER_SETTINGS = tuple(product(("magnitude L2", "bn_scale", "taylor"), SCOPES))
PEER_RATIOS = tuple(round(0.9 - 0.05 * step, 2) for step in range(12))
PEER_ROUNDS, PEER_SLACK = 30, 1.01
NEAR = 0.97
"""The part of the budget that has to be used."""

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Case:
    """A network and the device that it is pruned for."""

    real: Real
    device: DeviceProfile
    folder: Path
    layers: TimedLayers | None = None

    @property
    def source(self) -> Checkpoint:
        return Checkpoint(self.real.name, self.real.task, None, None)

    def target(self, budget: float) -> BudgetedTarget:
        """This machine, and what is allowed on it."""
        found = BudgetedTarget(
            name="host",
            device=self.device,
            budget=Budget(latency_p50_ratio=budget),
            build=self.build(),
            host=this_host(reported_distributions()),
        )
        return found.with_layers(self.layers) if self.layers else found

    def timed(self) -> "Case":
        """The same once the layers were timed."""
        target, out = self.target(1).for_layers(), self.folder / "layers"
        stage = TimeLayers(target=target)
        out.mkdir()
        stage.run(self.source, out, self.folder / "layers scratch")
        return replace(self, layers=stage.load(self.source, out, "layers"))

    def stage(self, budget: float) -> PruneToBudget:
        """The search, on this machine."""
        ways = Selection()
        prune = Prune(
            criterion=ways.criterion,
            allocator=ways.allocator,
            preferred_multiple=self.device.channel_multiple,
            samples=SAMPLES[self.real.name],
        )
        return PruneToBudget(
            prune=prune, export=Export(), measure=Measure(), targets=(self.target(budget),)
        )

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
    head = missed(case, budget)
    name = f"{head['method']} {budget}"
    stage, out = case.stage(budget), case.folder / name
    out.mkdir()
    start = time.perf_counter()
    stage.run(case.source, out, case.folder / f"{name} scratch")
    seconds = time.perf_counter() - start
    found = stage.load(case.source, out, name)
    pair = EnginePair(
        case.build().engine_file(case.engine(case.source, f"{name} dense")),
        case.build().engine_file(case.engine(found, f"{name} shipped")),
    )
    timing = timing_of(case.device, stage.targets[0].budget, stage.measure)
    figures = latency_figures(time_engines(ThisMachine(), pair, timing))
    measured, upper = figures["latency_ratio"], figures["latency_upper"]
    assert isinstance(measured, float)
    assert isinstance(upper, float)
    macs_ratio = found.report().macs_ratio
    return {
        **head,
        "measured": measured,
        "lower": figures["latency_lower"],
        "upper": upper,
        "builds": float(len(found.report().built) - 1),
        "macs_ratio": macs_ratio,
        "bought": (1 - measured) / (1 - macs_ratio),
        "hit": float(NEAR * budget <= measured and upper <= budget),
        "top1": case.real.top1(repaired(case, found)),
        "seconds": seconds,
    }


def repaired(case: Case, found: Pruned) -> nn.Module:
    """The network repaired without training, on as many samples as chose it."""
    network, samples = found.network(), case.real.calibration(SAMPLES[case.real.name])
    plan = read_spec(found.plan, PruningPlan)
    repair(network, case.real.network, plan, (LeastSquares(),), samples, cross_entropy)
    return network


def missed(case: Case, budget: float | None) -> Row:
    """The row of a search that found no network."""
    nothing = ("measured", "lower", "upper", "builds", "macs_ratio", "bought")
    return {
        "network": case.real.name,
        "engine": case.device.engine,
        "precision": case.device.precision,
        "method": "by time" if case.layers else "by MACs",
        "peer": None,
        "budget": budget,
        **dict.fromkeys(nothing),
        "hit": 0.0,
        "top1": None,
        "seconds": None,
    }


def searched(case: Case) -> Iterator[Row]:
    """Budget by budget."""
    for budget in BUDGETS:
        try:
            yield row(case, budget)
        except StageError as error:  # four networks did not do
            log.info("%s at %.1f: %s", case.real.name, budget, error)
            yield missed(case, budget)


def peer_rows(case: Case) -> Iterator[Row]:
    """Torch-Pruning's best network within each budget."""
    prepared = prepare(case.real, SAMPLES[case.real.name], 0, frozenset())
    found = {
        f"{importance} {scope} {result.asked}": result
        for importance, scope in PEER_SETTINGS
        for result in pruned_by_peer(prepared, importance, scope, PEER_RATIOS)
        if result.network is not None
    }
    engines = {"dense": case.build().engine_file(case.engine(case.source, "dense"))}
    for name in list(found):
        task = replace(case.real.task, network=partial(_same, found[name]))
        source = Checkpoint(name, task, None, None)
        try:
            engines[name] = case.build().engine_file(case.engine(source, name))
        except StageError as error:  # it answers all inputs alike
            log.info("%s %s: %s", PEER, name, str(error).splitlines()[0])
            del found[name]
    job = CompareJob(engines=engines, batch=1, rounds=PEER_ROUNDS, seed=0)
    ns = {name: median(times) for name, times in compared(ThisMachine(), job, "cpu").items()}
    ratios = {name: ns[name] / ns["dense"] for name in found}
    for budget in BUDGETS:
        rows: list[tuple[float, Row]] = []
        for importance, scope in PEER_SETTINGS:
            setting = f"{importance} {scope}"
            within = [
                name
                for name in found
                if name.startswith(setting) and ratios[name] <= PEER_SLACK * budget
            ]
            if not within:
                continue
            best = max(within, key=lambda name: ratios[name])
            network = recovered(_same(found[best]), prepared, (BnRecalibrate(),))
            macs_ratio = found[best].macs_ratio
            assert macs_ratio is not None
            top1 = case.real.top1(network)
            found_row = {
                **missed(case, budget),
                "method": setting,
                "peer": PEER,
                "measured": ratios[best],
                "macs_ratio": macs_ratio,
                "bought": (1 - ratios[best]) / (1 - macs_ratio),
                "hit": None,
                "top1": top1,
            }
            rows.append((top1, found_row))
        nobody = (0.0, {**missed(case, budget), "method": "none within it", "peer": PEER})
        yield max(rows, key=itemgetter(0), default=nobody)[1]


def _same(result: PeerResult) -> nn.Module:
    assert result.network is not None
    return copy.deepcopy(result.network)


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Network by network, method by method."""
    host = load_device("host", data)
    for name in SAMPLES:
        real = load(name, data, TESTS[name])
        with TemporaryDirectory() as folder:
            case = Case(real, host, Path(folder))
            yield {**missed(case, None), "method": "dense", "top1": real.top1(real.network)}
            start = time.perf_counter()
            timed = case.timed()
            seconds = time.perf_counter() - start
            yield {**missed(case, None), "method": "table", "seconds": seconds}
            yield from searched(timed)
            yield from searched(case)
            if name == "mobilenet_v2":
                yield from peer_rows(case)
            for engine in MORE_ENGINES if full else ():
                (Path(folder) / engine).mkdir()
                device = host.model_copy(update={"engine": engine})
                yield from searched(replace(case, device=device, folder=Path(folder) / engine))


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    rows = list(told(all_rows(options.data, options.full)))
    searches = [row for row in rows if row["upper"] is not None]
    widths = zip(numbers(searches, "upper"), numbers(searches, "measured"), strict=True)
    report(rows, {"measured": max(upper - middle for upper, middle in widths)}, options)


if __name__ == "__main__":
    main()
