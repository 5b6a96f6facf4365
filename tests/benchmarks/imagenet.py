"""ImageNet networks pruned further and further, without training, with and without repair.

MobileNetV2 and SqueezeNet 1.1 (concatenations, no batch norm) with torchvision's weights. 250
ImageNet images calibrate and 250 others, of 250 other classes, test: no image of a class that is
tested was seen. Rows: network, method, peer, scope, recovery, seed, macs_ratio, top1, seconds.

- dense: the network as it is
- recipe: `pipeline.api` as it comes, at 0.9 and 0.7 of the MACs; of MobileNetV2 three seeds draw
  the samples that are held out; `seconds` is everything. To hold, means over the seeds: MobileNetV2
  loses at most .04 of top-1 at 0.9, at most .15 at 0.7
- reconstruction+reconstruction: the recipe's criterion and allocator, and magnitude+uniform, at
  0.9, 0.7 and 0.5 of the MACs; `seconds` is choice and repair, the statistics are outside
- peer torch-pruning: its L2 magnitude, ranked in each layer or globally (`scope`); it may keep .01
  of the MACs more than asked

`recovery`: nothing; bn, batch norm recalibrated; least_squares, one sweep. A network without batch
norm has no rows of bn. `top1` is null where there is no such network; stderr says why. `--full`
refines as well (recovery "full").
"""

import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from common import Row, numbers, parse_options, report, standard_error
from peers import PEER, SCOPES, pruned_by_peer, recovered
from real import IMAGENET, Prepared, Real, load, prepare, told

from pipeline.api import prune_calibrated
from pipeline.network.layer_kinds import BatchNorm
from pipeline.prune.allocators import Allocator
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.choose import Selection
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.reconstruction import Reconstruction
from pipeline.prune.statistics import needs_of
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.task import cross_entropy
from profiles.errors import StageError
from profiles.plugins import name_of

NETWORKS = IMAGENET
MACS_RATIOS = (0.9, 0.7, 0.5)
RECIPE_RATIOS = (0.9, 0.7)
SEEDS = {"mobilenet_v2": (0, 1, 2), "squeezenet1_1": (0,)}
SAMPLES = 250
TESTS = 250
ROWS = 8_000
PAIRS: tuple[tuple[Criterion, Allocator], ...] = (
    (Reconstruction(), by_reconstruction.Reconstruction()),
    (Magnitude(), Uniform()),
)
IMPORTANCE = "magnitude L2"

log = logging.getLogger("slimgate.benchmark")


def chains(prepared: Prepared, full: bool) -> dict[str, tuple[Recovery, ...]]:
    """The repairs that apply to the network."""
    found: dict[str, tuple[Recovery, ...]] = {"nothing": ()}
    if any(isinstance(module, BatchNorm.TYPES) for module in prepared.real.network.modules()):
        found["bn"] = (BnRecalibrate(),)
    found["least_squares"] = (LeastSquares(steps=0, rows=ROWS),)
    if full:
        found["full"] = (LeastSquares(),)
    return found


def row(
    network: str,
    method: str,
    recovery: str,
    figures: tuple[float | None, float | None, float | None] = (None, None, None),
    scope: str | None = None,
    seed: int = 0,
) -> Row:
    """A row of the peer's where there is a scope; `figures`: the MACs' ratio, top1, seconds."""
    ratio, top1, seconds = figures
    return {
        "network": network,
        "method": method,
        "peer": PEER if scope else None,
        "scope": scope,
        "recovery": recovery,
        "seed": seed,
        "macs_ratio": ratio,
        "top1": top1,
        "seconds": seconds,
    }


def recipe_rows(real: Real) -> Iterator[Row]:
    """The defaults of `pipeline.api`, each seed alone."""
    for macs_ratio in RECIPE_RATIOS:
        for seed in SEEDS[real.name]:
            start = time.perf_counter()
            calibration, chain = real.calibration(SAMPLES, seed), (LeastSquares(),)
            slim = prune_calibrated(
                real.network, calibration, macs_ratio, Selection(), chain, cross_entropy
            )
            seconds = time.perf_counter() - start
            figures = slim.macs_ratio, real.top1(slim.network), seconds
            yield row(real.name, "recipe", "recipe", figures, seed=seed)


def our_rows(prepared: Prepared, full: bool) -> Iterator[Row]:
    """Both pairs at every ratio with every repair."""
    for criterion, allocator in PAIRS:
        method = f"{name_of(criterion)}+{name_of(allocator)}"
        for macs_ratio in MACS_RATIOS:
            start = time.perf_counter()
            try:
                choice = prepared.choice(criterion, allocator, macs_ratio)
            except StageError as error:
                log.info("%s at %.2f: %s", method, macs_ratio, error)
                yield row(prepared.real.name, method, "nothing")
                continue
            choosing = time.perf_counter() - start
            for recovery, chain in chains(prepared, full).items():
                start = time.perf_counter()
                network = prepared.repaired(choice, chain)
                seconds = choosing + time.perf_counter() - start
                ratio, top1 = prepared.macs_ratio(choice), prepared.real.top1(network)
                yield row(prepared.real.name, method, recovery, (ratio, top1, seconds))


def peer_rows(prepared: Prepared) -> Iterator[Row]:
    """The peer's at every ratio with the repairs that need no plan."""
    offered = {n: c for n, c in chains(prepared, False).items() if n != "least_squares"}
    for scope in SCOPES:
        for found in pruned_by_peer(prepared, IMPORTANCE, scope, MACS_RATIOS):
            for recovery, chain in offered.items():
                top1, seconds = None, found.seconds
                if found.network is not None:
                    start = time.perf_counter()
                    network = recovered(found.network, prepared, chain)
                    seconds += time.perf_counter() - start
                    top1 = prepared.real.top1(network)
                figures = (found.macs_ratio, top1, seconds)
                yield row(prepared.real.name, IMPORTANCE, recovery, figures, scope)


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Network by network: dense, ours, the peer's."""
    needs = needs_of(*zip(*PAIRS, strict=True))
    for name in NETWORKS:
        real = load(name, data, TESTS)
        yield row(name, "dense", "nothing", (1.0, real.top1(real.network), None))
        yield from recipe_rows(real)
        prepared = prepare(real, SAMPLES, 0, needs)
        yield from our_rows(prepared, full)
        yield from peer_rows(prepared)


def main() -> None:
    options = parse_options(__doc__)
    rows = list(told(all_rows(options.data, options.full)))
    # The largest standard error there is, that of one half; and what seeds do.
    spread = {"top1": standard_error(0.5, TESTS)}
    seeds = SEEDS["mobilenet_v2"]
    recipes = [one for one in rows if one["method"] == "recipe"]
    for place, macs_ratio in enumerate(RECIPE_RATIOS):
        alike = recipes[place * len(seeds) : (place + 1) * len(seeds)]
        spread[f"mobilenet_v2_{macs_ratio}"] = statistics.stdev(numbers(alike, "top1"))
    report(rows, spread, options)


if __name__ == "__main__":
    main()
