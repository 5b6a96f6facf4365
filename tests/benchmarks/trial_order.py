"""How far the rougher first round of trials orders the ways to prune as full trials do.

All eight ways that "auto" tries, each tried in both rounds. MobileNetV2 at 224 (64 images) and
ResNet-20 on CIFAR-10 (250 images: few, so the first round is at its roughest); `--full`: also 1,000
images, and ResNet-56. Rows: network, peer, macs_ratio, images, best, rank, tried,
excess, tau.

- `best`: the way of the least distance in full trials; `rank` is its place in the first round,
  from 1; `tried`: how many are tried in full
- `excess`: how much further from the dense network the way is that is chosen than the best, in full
  trials: 0 where they are one
- `tau`: Kendall's rank correlation of the two rounds' distances
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from common import Row, numbers, parse_options, report
from real import load, prepare, told

from pipeline.prune.auto import AUTO_ALLOCATORS, AUTO_CRITERIA, auto_selections
from pipeline.prune.baselines import rank_correlation
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import choose
from pipeline.prune.statistics import needs_of
from pipeline.prune.trials import finalists, trial_setup
from pipeline.task import cross_entropy
from profiles.plugins import name_of

QUICK = (("resnet20", 250, (0.7, 0.5, 0.3)), ("mobilenet_v2", 64, (0.7,)))
FULL = (
    *QUICK,
    ("resnet20", 1000, (0.7, 0.5, 0.3)),
    ("resnet56", 1000, (0.7, 0.5, 0.3)),
    ("mobilenet_v2", 250, (0.9, 0.7, 0.5)),
)

log = logging.getLogger("slimgate.benchmark")


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """A row for each network and ratio."""
    ways = auto_selections()
    for name, images, macs_ratios in FULL if full else QUICK:
        prepared = prepare(load(name, data, 1), images, 0, needs_of(AUTO_CRITERIA, AUTO_ALLOCATORS))
        prunable = prepared.prunable
        setup = trial_setup(prepared.real.network, prepared.calibration, cross_entropy)
        rough = setup.rough()
        for macs_ratio in macs_ratios:
            limits = Limits(macs=macs_ratio * prunable.macs)
            plans = [choose(prunable, prepared.stats, way, limits).plan for way in ways]
            first = [rough.try_plan(plan)[1] for plan in plans]
            distances = [setup.try_plan(plan)[1] for plan in plans]
            order = sorted(range(len(ways)), key=first.__getitem__)
            best = min(range(len(ways)), key=distances.__getitem__)
            near = finalists(dict(enumerate(first)))
            chosen = min(distances[place] for place in near)
            log.info("first %s, full %s", first, distances)
            yield {
                "network": name,
                "peer": None,
                "macs_ratio": macs_ratio,
                "images": float(images),
                "best": f"{name_of(ways[best].criterion)}, {name_of(ways[best].allocator)}",
                "rank": float(order.index(best) + 1),
                "tried": float(len(near)) if len(near) > 1 else 0.0,
                "excess": chosen / distances[best] - 1,
                "tau": rank_correlation(list(zip(first, distances, strict=True))),
            }


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    rows = list(told(all_rows(options.data, options.full)))
    report(rows, {"excess": max(numbers(rows, "excess"))}, options)


if __name__ == "__main__":
    main()
