"""The PROscore of IPPRO beside other criteria, by our own code, and beside the paper's figures.

ResNet-56 and ResNet-20 on CIFAR-10, the same part of every inner layer removed. Rows: network,
method, peer, kind, removed, recovery, seed, top1, value, seconds.

- accuracy: top-1 without repair and, from 40 % on, with batch norm recalibrated (bn) or after one
  sweep of least_squares, on 1,000 test images. "pro" is Eq. 4 to the letter; "pro A" has the
  folded filter, absolute gradients and D at the layer's output; "pro sum" sums over batches;
  "offset B" and "offset C" (per position) are ours. `seconds` is choice and repair. ResNet-20
  alone has least_squares and, at 40 %, as recovery "finetuned", two epochs of 5,000 images after
  bn; with `--full` both have them everywhere, on all images, for three seeds
- correlation: `value` is the mean over the groups of Pearson's or Kendall's coefficient between
  the scores that `method` names; peer "paper" has the figures that it prints (arXiv 2507.14171,
  Table 4), of a coefficient that we only suppose to be Pearson's
- samples: scores from more images: `value` is the part of the 20,000, `seconds` what they took;
  top-1 after bn. Beside the paper's Table 5: another network, trained for 400 epochs afterwards
- lambda: `value` is lambda of Eq. 3; top-1 after bn. We know no figures of its Appendix G
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import Figure, Row, numbers, parse_options, report, standard_error
from real import Prepared, Real, load, prepare, told
from scipy import stats
from torch import nn

from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria import Criterion, group_scores
from pipeline.prune.criteria.geometric import Geometric
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.offset import Offset
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.statistics import needs_of
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.train.loop import train
from pipeline.train.progress import ProgressFile
from pipeline.train.settings import Settings

NETWORKS = ("resnet20", "resnet56")
REPAIRED_NETWORK = "resnet20"
"""Where each criterion is repaired by least squares and trained; everywhere with `--full`."""
REMOVED = (0.2, 0.4, 0.6)
REPAIRED = (0.4, 0.6)
SAMPLES = 1000
TESTS = 1000
SEEDS = (0, 1, 2)
STUDIED = "resnet56"
"""The network of the studies of sample size and lambda."""
STUDIED_AT = 0.4
STUDY = (200, 1000, 4000)
IMAGES = 20_000
LAMBDAS = (0.01, 0.1, 1.0, 10.0)
EPOCHS = 2
TRAINED, TRAINED_AT = 5_000, 0.4
"""Images of the two epochs, and the part removed before them; all of both with `--full`."""
CHAINS: dict[str, tuple[Recovery, ...]] = {
    "bn": (BnRecalibrate(),),
    "least_squares": (LeastSquares(steps=0, rows=16_000),),
}
PAPER_CORRELATIONS = {"magnitude": 0.033, "taylor": 0.064, "geometric": 0.003}
PAPER_SAMPLES = ((0.05, 0.9221, 7.2), (1.0, 0.9247, 45.4))

log = logging.getLogger("slimgate.benchmark")


def criteria(seed: int) -> dict[str, Criterion]:
    """Every criterion of the table by the name of its rows."""
    return {
        "random": Random(seed=seed),
        "magnitude": Magnitude(),
        "geometric": Geometric(),
        "taylor": Taylor(),
        "pro": Pro(),
        "pro A": Pro(filter="folded", place="output", accumulation="absolute"),
        "pro sum": Pro(accumulation="sum"),
        "offset B": Offset(),
        "offset C": Offset(per_position=True),
    }


def row(network: str, method: str, kind: str, **columns: Figure) -> Row:
    """All columns; null where not given."""
    others = ("peer", "removed", "recovery", "seed", "top1", "value", "seconds")
    rest: dict[str, Figure] = {name: columns.get(name) for name in others}
    return {"network": network, "method": method, "kind": kind, **rest}


def accuracy_rows(prepared: Prepared, seed: int, full: bool) -> Iterator[Row]:
    """Every criterion at every ratio with every repair."""
    real = prepared.real
    for method, criterion in criteria(seed).items():
        for removed in REMOVED:
            chains = {"nothing": (), **(CHAINS if removed in REPAIRED else {})}
            if not full and real.name != REPAIRED_NETWORK:
                chains.pop("least_squares", None)
            for recovery, chain in chains.items():
                start = time.perf_counter()
                network = pruned(prepared, criterion, removed, chain)
                figures: dict[str, Figure] = {"removed": removed, "seed": seed}
                figures["seconds"] = time.perf_counter() - start
                figures["top1"] = real.top1(network)
                yield row(real.name, method, "accuracy", recovery=recovery, **figures)
                brief = real.name == REPAIRED_NETWORK and removed == TRAINED_AT
                if recovery == "bn" and (full or brief):
                    start = time.perf_counter()
                    finetune(network, real, seed, None if full else TRAINED)
                    figures["seconds"] = time.perf_counter() - start
                    figures["top1"] = real.top1(network)
                    yield row(real.name, method, "accuracy", recovery="finetuned", **figures)


def pruned(
    prepared: Prepared, criterion: Criterion, removed: float, chain: Sequence[Recovery]
) -> nn.Module:
    """The network without this part of every group, repaired."""
    choice = prepared.choice(criterion, Uniform(pruning_ratio=removed), None)
    return prepared.repaired(choice, chain)


def finetune(network: nn.Module, real: Real, seed: int, images: int | None) -> None:
    """Train in place on some or all images, taught by the labels alone, as the paper does."""
    settings = Settings(
        epochs=EPOCHS,
        optimizer="sgd",
        learning_rate=0.02,
        batch_size=128,
        augment="crop_flip",
        distill=0.0,
        samples=images,
        seed=seed,
    )
    with TemporaryDirectory() as folder:
        saved = ProgressFile(Path(folder) / "epoch", lambda: None)
        train(network, None, real.task, settings, saved)


def correlation_rows(prepared: Prepared) -> Iterator[Row]:
    """How alike the scores are, group by group."""
    network, groups = prepared.real.name, prepared.prunable.groups
    scored = {
        name: [group_scores(criterion, group, prepared.stats) for group in groups]
        for name, criterion in criteria(0).items()
    }
    for method in ("pro", "pro A", "offset B"):
        for other in PAPER_CORRELATIONS:
            pairs = list(zip(scored[method], scored[other], strict=True))
            found = {
                "Pearson": [float(stats.pearsonr(a, b).statistic) for a, b in pairs],
                "Kendall": [float(stats.kendalltau(a, b).statistic) for a, b in pairs],
            }
            for kind, values in found.items():
                name = f"{kind}: {method}, {other}"
                yield row(network, name, "correlation", value=float(np.nanmean(values)))


def paper_rows() -> Iterator[Row]:
    """The figures that the paper prints."""
    for other, value in PAPER_CORRELATIONS.items():
        yield row("-", f"Pearson: pro, {other}", "correlation", peer="paper", value=value)
    for part, top1, seconds in PAPER_SAMPLES:
        figures = {"value": part, "top1": top1, "seconds": seconds}
        yield row(STUDIED, "pro", "samples", peer="paper", recovery="400 epochs", **figures)


def sample_rows(real: Real, fixed: Prepared, full: bool) -> Iterator[Row]:
    """Scores from few and many images; batch norm is recalibrated on the same ones always."""
    methods = {"pro": Pro(), "pro A": criteria(0)["pro A"]}
    for count in (*STUDY, *((IMAGES,) if full else ())):
        found = prepare(real, count, 0, Pro.needs)
        scored = Prepared(real, found.prunable, fixed.calibration, found.stats, found.seconds)
        for method, criterion in methods.items():
            top1 = real.top1(pruned(scored, criterion, STUDIED_AT, CHAINS["bn"]))
            figures: dict[str, Figure] = {"removed": STUDIED_AT, "seed": 0, "recovery": "bn"}
            figures |= {"top1": top1, "value": count / IMAGES, "seconds": found.seconds}
            yield row(real.name, method, "samples", **figures)


def lambda_rows(prepared: Prepared) -> Iterator[Row]:
    """The literal score at several lambdas."""
    for step in LAMBDAS:
        start = time.perf_counter()
        network = pruned(prepared, Pro(step_size=step), STUDIED_AT, CHAINS["bn"])
        figures: dict[str, Figure] = {"removed": STUDIED_AT, "seed": 0, "recovery": "bn"}
        figures |= {"value": step, "seconds": time.perf_counter() - start}
        figures["top1"] = prepared.real.top1(network)
        yield row(prepared.real.name, "pro", "lambda", **figures)


def all_rows(data: Path, full: bool) -> Iterator[Row]:
    """Network by network, the studies with the network that they are of."""
    for name in NETWORKS:
        real = load(name, data, TESTS)
        yield row(name, "dense", "accuracy", removed=0.0, top1=real.top1(real.network))
        for seed in SEEDS if full else SEEDS[:1]:
            needs = needs_of(criteria(seed).values(), ())
            prepared = prepare(real, SAMPLES, seed, needs)
            if seed == SEEDS[0]:
                yield from correlation_rows(prepared)
                if name == STUDIED:
                    yield from lambda_rows(prepared)
                    yield from sample_rows(real, prepared, full)
            yield from accuracy_rows(prepared, seed, full)
    yield from paper_rows()


def main() -> None:
    options = parse_options(__doc__)
    rows = list(told(all_rows(options.data, options.full)))
    ours = [one for one in rows if one["peer"] is None]
    worst = max(standard_error(rate, TESTS) for rate in numbers(ours, "top1"))
    report(rows, {"top1": worst}, options)


if __name__ == "__main__":
    main()
