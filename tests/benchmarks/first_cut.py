"""Half of ResNet-56's MACs on CIFAR-10: what each criterion keeps, before and after fine-tuning.

Rows: network, peer, criterion, finetune_epochs, seed, macs_ratio, top1, top1_drop and its bounds,
latency_ratio and its bounds, latency_control, seconds. The first row is the dense network against
itself. Every row goes through slimgate's own stages; `top1` is that of the ONNX Runtime engine on
the test images, `macs_ratio` is counted on the exported graphs, latency is CPU time. `seconds` is
what a row took beyond the rows above it, measuring included. `--full` takes three seeds.

The uniform allocator asks no criterion how many channels to keep, so all pruned engines have one
shape, and the differences of their latencies are noise: `spread` holds them.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import (
    Figure,
    Options,
    Row,
    Spread,
    latency_figures,
    numbers,
    parse_options,
    report,
    standard_error,
)

from pipeline.flow import Flow, load_flow
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, engine_file, score_engine, time_engines, timing_of
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.taylor import Taylor
from pipeline.recipe import Recipe, Target, resolved_targets
from pipeline.repair.recoveries.bn_recalibrate import BnRecalibrate
from pipeline.stages.finetune import FineTune
from pipeline.stages.prune import Prune
from pipeline.stages.recover import Recover
from pipeline.store.artifacts import Engine
from pipeline.store.store import Store
from pipeline.task import ConfiguredTask
from profiles.budget import Budget
from profiles.statistics import paired_drop

NETWORK = "resnet56"
MACS_RATIO = 0.5
SAMPLES = 1000
EPOCHS = (0, 2)
SEEDS = (0, 1, 2)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dense:
    """The dense network's engine and its score on every test image."""

    engine: Engine
    scores: tuple[float, ...]


def base_recipe() -> Recipe:
    """The task, half of the MACs, batch norm recalibrated; channels in any number."""
    network = Path(__file__).with_name("cifar_resnet.py")
    task = ConfiguredTask(
        network=f"{network}:{NETWORK}",
        weights=f"cifar10_{NETWORK}.safetensors",
        data="cifar10.npz",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=32,
    )
    return Recipe(
        task=task,
        prune=Prune(
            allocator=Uniform(), macs_ratio=MACS_RATIO, multiple=1, floor=1, samples=SAMPLES
        ),
        recover=Recover(chain=(BnRecalibrate(),), samples=SAMPLES),
        target=(Target(budget=Budget(macs_ratio=MACS_RATIO)),),
    )


def finetuning(epochs: int, seed: int) -> FineTune | None:
    """The schedule of `epochs` epochs; None for none."""
    if epochs == 0:
        return None
    return FineTune(
        epochs=epochs,
        optimizer="sgd",
        learning_rate=0.02,
        batch_size=128,
        augment="crop_flip",
        distill=0.0,
        seed=seed,
    )


def criteria(seed: int) -> dict[str, Criterion]:
    """Every criterion by name; only one depends on the seed itself."""
    return {
        "pro": Pro(),
        "magnitude": Magnitude(),
        "taylor": Taylor(),
        "random": Random(seed=seed),
    }


def variant(flow: Flow, criterion: Criterion, epochs: int, seed: int) -> Flow:
    """The flow with another criterion and another fine-tuning."""
    prune = flow.recipe.prune.model_copy(update={"criterion": criterion, "seed": seed})
    update = {"prune": prune, "finetune": finetuning(epochs, seed)}
    return replace(flow, recipe=flow.recipe.model_copy(update=update))


def measured(flow: Flow, dense: Dense, engine: Engine) -> dict[str, Figure]:
    """Every figure of one engine beside the dense one."""
    (target,), scores = flow.targets, dense.scores
    if engine != dense.engine:
        scores = score_engine(
            ThisMachine(), engine_file(engine.path, target.device), flow.dense.task
        ).values
    drop = paired_drop(dense.scores, scores)
    pair = EnginePair(*(engine_file(e.path, target.device) for e in (dense.engine, engine)))
    timing = timing_of(target.device, target.budget, flow.recipe.measure)
    return {
        "macs_ratio": engine.source.report().macs / dense.engine.source.report().macs,
        "top1": float(np.mean(scores)),
        "top1_drop": drop.measured,
        "drop_lower": drop.lower,
        "drop_upper": drop.upper,
        **latency_figures(time_engines(ThisMachine(), pair, timing)),
    }


def all_rows(options: Options, store: Store) -> Iterator[Row]:
    """The dense row, then one for each seed, criterion and number of epochs."""
    recipe = base_recipe()
    (target,) = targets = resolved_targets(recipe, options.data)
    flow = load_flow(recipe, targets, options.data, store)
    engine = flow.built_dense(target)
    file = engine_file(engine.path, target.device)
    dense = Dense(engine, score_engine(ThisMachine(), file, flow.dense.task).values)
    yield {**heading(None, 0, 0), **measured(flow, dense, engine)}
    for seed in SEEDS if options.full else SEEDS[:1]:
        for name, criterion in criteria(seed).items():
            for epochs in EPOCHS:
                one = variant(flow, criterion, epochs, seed)
                yield {**heading(name, epochs, seed), **measured(one, dense, one.built(target))}


def heading(criterion: str | None, epochs: int, seed: int) -> Row:
    """What a row is about."""
    return {
        "network": NETWORK,
        "peer": None,
        "criterion": criterion,
        "finetune_epochs": epochs,
        "seed": seed,
    }


def timed(rows: Iterator[Row]) -> Iterator[Row]:
    """Each row with the seconds that it took to make."""
    start = time.perf_counter()
    for row in rows:
        yield {**row, "seconds": time.perf_counter() - start}
        start = time.perf_counter()


def spread_of(rows: Sequence[Row], images: int) -> Spread:
    """`top1`: its largest standard error; `latency_ratio`: standard deviation over the engines
    of one shape; `latency_control`: the worst; `top1_seeds`: the largest deviation over seeds.
    """
    pruned = rows[1:]
    spread = {
        "top1": max(standard_error(rate, images) for rate in numbers(rows, "top1")),
        "latency_ratio": statistics.stdev(numbers(pruned, "latency_ratio")),
        "latency_control": max(abs(c - 1) for c in numbers(rows, "latency_control")),
    }
    alike: dict[tuple[Figure, Figure], list[Row]] = {}
    for row in pruned:
        alike.setdefault((row["criterion"], row["finetune_epochs"]), []).append(row)
    if all(len(found) > 1 for found in alike.values()):
        spread["top1_seeds"] = max(statistics.stdev(numbers(f, "top1")) for f in alike.values())
    return spread


def main() -> None:
    options = parse_options(__doc__)
    with options.folder() as cache:
        rows = list(timed(all_rows(options, Store(cache))))
    with np.load(options.data / "cifar10.npz") as archive:
        images = len(archive["test_y"])
    report(rows, spread_of(rows, images), options)


if __name__ == "__main__":
    main()
