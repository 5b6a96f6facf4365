"""What is left of an accuracy without any training: choice by choice, repair by repair.

ResNet-56 and ResNet-20 on CIFAR-10, MACs cut to 0.5 and 0.3 with 1,000 training images. Rows:
network, method, peer, scope, recovery, seed, macs_ratio, top1, seconds, images.

- dense: the network as it is
- recipe: `pipeline.api` as it comes, each of three seeds, on all 5,000 test images; `seconds` is
  everything from the network to the repaired one. To hold: the mean over the seeds of ResNet-56
  is .925 or more at -50 %, .885 or more at -70 %, each within 60 seconds
- CRITERION+ALLOCATOR: every criterion with every repair, one seed, fewer test images; "auto" is
  the pair that the pipeline chooses by trial. `seconds` is choice and repair alone: the statistics,
  one pass for all criteria, are outside. `repair` undoes what does not help, as for users
- peer torch-pruning: its importances in its own pruner, ranked in each layer or globally (`scope`);
  "whole": all layers but the classifier are its to prune, shortcuts padded with zeros included;
  "inner": only the layers that slimgate found prunable. It may keep .01 of the MACs more than
  asked, for it takes a channel of all layers at once, and its next step can be far below

`recovery`: nothing; bn, batch norm recalibrated; least_squares, one sweep; full, with refinement,
of some criteria; recipe, the default's. Not every criterion has every repair unless `--full` asks.
`top1` is null where there is no such network; stderr says why. `--full` makes all
rows, on all images.
"""

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import Row, Spread, numbers, parse_options, report, standard_error
from peers import IMPORTANCES, PEER, SCOPES, pruned_by_peer, recovered
from real import Prepared, Real, load, prepare, told

from pipeline.api import prune_calibrated
from pipeline.prune.allocators import Allocator
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.auto import AUTO_ALLOCATORS, AUTO_CRITERIA
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Choice, Selection
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.statistics import needs_of
from pipeline.prune.trials import choose_by_trial, trial_setup
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.task import cross_entropy
from profiles.errors import StageError
from profiles.plugins import name_of, plugin, plugin_names

NETWORKS = ("resnet20", "resnet56")
RECIPE_NETWORK = "resnet56"
MACS_RATIOS = (0.5, 0.3)
SAMPLES = 1000
SEEDS = (0, 1, 2)
TESTS = 1000
"""Images on which the table's rows are tested."""
RECIPE_TESTS = 5000
CHAINS: dict[str, tuple[Recovery, ...]] = {
    "nothing": (),
    "bn": (BnRecalibrate(),),
    "least_squares": (LeastSquares(steps=0, rows=16_000),),
    "full": (LeastSquares(rows=32_000, steps=40),),
}
PEER_CHAINS = ("nothing", "bn")
ALLOCATED = (Reconstruction(), Magnitude(), Taylor())
"""The criteria that also stand with the allocator of the recipe."""
REFINED = ("random", "magnitude", "taylor", "pro", "reconstruction", "auto")
"""The criteria whose choices are repaired as `SOME` says; those of the others as `ALL` says."""
ALL = {"resnet56": ("nothing", "bn"), "resnet20": ("nothing", "bn", "least_squares")}
SOME = {"resnet56": ("nothing", "bn", "least_squares"), "resnet20": tuple(CHAINS)}
"""The repairs by network, of those that fit into 30 minutes; `--full` makes them all."""
TRIED = ("resnet20",)
"""Where the pipeline's own choice by trial is made; everywhere with `--full`."""

log = logging.getLogger("slimgate.benchmark")


def every_criterion() -> list[Criterion]:
    """With its defaults, by name."""
    package = "pipeline.prune.criteria"
    return [_plugin(package, name) for name in plugin_names(package)]


def _plugin(package: str, name: str) -> Criterion:
    return plugin(package, name, Criterion)()  # type: ignore[type-abstract]


def heading(real: Real, method: str, recovery: str, seed: int) -> dict[str, str | float | None]:
    """The columns that a row of slimgate's begins with."""
    return {
        "network": real.name,
        "method": method,
        "peer": None,
        "scope": None,
        "recovery": recovery,
        "seed": seed,
    }


def figures(real: Real, ratio: float | None, top1: float | None, seconds: float | None) -> Row:
    """The columns that a row ends with."""
    return {"macs_ratio": ratio, "top1": top1, "seconds": seconds, "images": len(real.labels)}


def recipe_rows(real: Real) -> Iterator[Row]:
    """The defaults of `pipeline.api`, each seed timed alone."""
    for macs_ratio in MACS_RATIOS:
        for seed in SEEDS:
            calibration = real.calibration(SAMPLES, seed)
            start = time.perf_counter()
            chain = (LeastSquares(),)
            slim = prune_calibrated(
                real.network, calibration, macs_ratio, Selection(), chain, cross_entropy
            )
            seconds = time.perf_counter() - start
            top1 = real.top1(slim.network)
            yield {
                **heading(real, "recipe", "recipe", seed),
                **figures(real, slim.macs_ratio, top1, seconds),
            }


def table_rows(prepared: Prepared, full: bool) -> Iterator[Row]:
    """Every criterion, and some with the recipe's allocator, and what auto picks."""
    uniform, allocated = Uniform(), by_reconstruction.Reconstruction()
    pairs: list[tuple[Criterion, Allocator]] = [(one, uniform) for one in every_criterion()]
    pairs += [(one, allocated) for one in ALLOCATED]
    for macs_ratio in MACS_RATIOS:
        for criterion, allocator in pairs:
            method = f"{name_of(criterion)}+{name_of(allocator)}"
            start = time.perf_counter()
            try:
                choice = prepared.choice(criterion, allocator, macs_ratio)
            except StageError as error:
                log.info("%s at %.2f: %s", method, macs_ratio, error)
                nothing = figures(prepared.real, None, None, None)
                yield {**heading(prepared.real, method, "nothing", SEEDS[0]), **nothing}
                continue
            yield from repaired_rows(prepared, method, choice, time.perf_counter() - start, full)
        if not full and prepared.real.name not in TRIED:
            continue
        start = time.perf_counter()
        choice = chosen_by_trial(prepared, macs_ratio)
        yield from repaired_rows(prepared, "auto", choice, time.perf_counter() - start, full)


def chosen_by_trial(prepared: Prepared, macs_ratio: float) -> Choice:
    """What the pipeline's default chooses by trial."""
    prunable, stats = prepared.prunable, prepared.stats
    setup = trial_setup(prepared.real.network, prepared.calibration, cross_entropy)
    limits = Limits(macs=macs_ratio * prunable.macs)
    selections = [Selection(one, by) for by in AUTO_ALLOCATORS for one in AUTO_CRITERIA]
    choice, _ = choose_by_trial(prunable, stats, selections, limits, setup)
    names = name_of(choice.selection.criterion), name_of(choice.selection.allocator)
    log.info("auto at %.2f: %s+%s", macs_ratio, *names)
    return choice


def repaired_rows(
    prepared: Prepared, method: str, choice: Choice, choosing: float, full: bool
) -> Iterator[Row]:
    """One choice with every chain of recoveries that there is time for."""
    ratio = prepared.macs_ratio(choice)
    offers = SOME if method.partition("+")[0] in REFINED else ALL
    offered = CHAINS if full else offers[prepared.real.name]
    for recovery, chain in CHAINS.items():
        if recovery not in offered:
            continue
        start = time.perf_counter()
        network = prepared.repaired(choice, chain)
        seconds = choosing + time.perf_counter() - start
        top1 = prepared.real.top1(network)
        yield {
            **heading(prepared.real, method, recovery, SEEDS[0]),
            **figures(prepared.real, ratio, top1, seconds),
        }


def peer_rows(prepared: Prepared) -> Iterator[Row]:
    """Torch-Pruning's importances, as it comes and on the layers that slimgate prunes."""
    inner = [group.name for group in prepared.prunable.groups]
    for layers, only in (("whole", None), ("inner", inner)):
        for importance in IMPORTANCES:
            for scope in SCOPES:
                for found in pruned_by_peer(prepared, importance, scope, MACS_RATIOS, only):
                    for recovery in PEER_CHAINS:
                        top1, seconds = None, found.seconds
                        if found.network is not None:
                            start = time.perf_counter()
                            network = recovered(found.network, prepared, CHAINS[recovery])
                            seconds += time.perf_counter() - start
                            top1 = prepared.real.top1(network)
                        yield {
                            **heading(prepared.real, f"{importance}, {layers}", recovery, SEEDS[0]),
                            **{"peer": PEER, "scope": scope},
                            **figures(prepared.real, found.macs_ratio, top1, seconds),
                        }


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """The recipe first, then network by network the tables, ours before the peer's."""
    whole = load(RECIPE_NETWORK, data, RECIPE_TESTS)
    yield {
        **heading(whole, "dense", "nothing", SEEDS[0]),
        **figures(whole, 1.0, whole.top1(whole.network), None),
    }
    yield from recipe_rows(whole)
    for name in NETWORKS:
        real = load(name, data, RECIPE_TESTS if full else TESTS)
        yield {
            **heading(real, "dense", "nothing", SEEDS[0]),
            **figures(real, 1.0, real.top1(real.network), None),
        }
        needs = needs_of([*every_criterion(), *AUTO_CRITERIA], AUTO_ALLOCATORS)
        prepared = prepare(real, SAMPLES, SEEDS[0], needs)
        yield from table_rows(prepared, full)
        yield from peer_rows(prepared)


def spread_of(rows: Sequence[Row]) -> Spread:
    """`top1`: the largest standard error, on the table's images; `recipe_*`: over the seeds."""
    recipes = [row for row in rows if row["method"] == "recipe"]
    table = [row for row in rows if row["method"] != "recipe"]
    spread = {
        "top1": max(standard_error(rate, TESTS) for rate in numbers(table, "top1")),
        "recipe_top1": max(standard_error(rate, RECIPE_TESTS) for rate in numbers(recipes, "top1")),
    }
    for place, macs_ratio in enumerate(MACS_RATIOS):
        alike = recipes[place * len(SEEDS) : (place + 1) * len(SEEDS)]
        for figure in ("top1", "seconds"):
            found = numbers(alike, figure)
            spread[f"recipe_{figure}_{macs_ratio}"] = statistics.stdev(found)
    return spread


def main() -> None:
    options = parse_options(__doc__)
    rows = list(told(all_rows(options.data, options.full)))
    report(rows, spread_of(rows), options)


if __name__ == "__main__":
    main()
