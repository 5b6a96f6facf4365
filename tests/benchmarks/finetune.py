"""What a brief fine-tuning gives back of ResNet-56 on CIFAR-10, at 0.5 and 0.3 of its MACs.

The question: is a network that slimgate pruned and repaired as good as the dense one after at
most EPOCHS epochs of 20,000 images? The goals: within 0.3 points of the dense top-1 at half of
the MACs, within 1.5 points at 0.3.

Rows: network, method, peer, epochs, macs_ratio, top1, seconds; for each method one with 0 epochs,
pruned and not trained, and one after EPOCHS. The most important come first:

- dense, 0 epochs: as it was published
- slimgate at 0.5, then at 0.3: `pipeline.api.prune` with its defaults on 1,000 training images
- dense, EPOCHS: what the training does to a network that lost nothing
- peer torch-pruning at 0.5: its importance "taylor", over all layers together; nothing repaired

All are trained by `pipeline.train.loop.train` with the same SETTINGS, taught by the dense network.
Of the training images a twentieth chooses the epoch that is kept; no test image chooses anything.
Only the dense network keeps its last epoch: nothing is nearer to it than itself, untrained.
`macs_ratio` is counted by `pipeline.network.costs` for all; `top1` is that of all 5,000 test
images, and `spread` holds its standard error. `seconds` is what a row took beyond the row above it,
testing included. A run takes about 40 minutes on two cores and logs each row as it comes. With
`--cache` a training goes on after the last whole epoch of a run that was killed; `seconds` are
then those of the rest.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Row, Spread, numbers, parse_options, report, standard_error
from first_cut import timed
from peers import PEER, pruned_by_peer
from real import Real, load, prepare, told
from torch import Tensor, nn

from pipeline.api import Selection, prune
from pipeline.data.digest import file_digest, value_digest
from pipeline.network.costs import macs_model
from pipeline.network.weights import load_weights, write_weights
from pipeline.repair.recoveries import Recovery
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.train.loop import train
from pipeline.train.progress import ProgressFile
from pipeline.train.settings import Settings

NETWORK = "resnet56"
MACS_RATIOS = (0.5, 0.3)
PEER_RATIO, PEER_IMPORTANCE = 0.5, "taylor"
SAMPLES = 1000
"""Training images that slimgate calibrates on, and that Taylor has its gradients of."""
EPOCHS = 5
TRAINED: int | None = None
"""Training images for fine-tuning and the choice of its epoch; None for all."""
TESTS: int | None = None
"""Test images; None for all."""
SETTINGS = Settings(
    epochs=EPOCHS,
    learning_rate=0.006,
    batch_size=64,
    augment="crop_flip",
    distill=1.0,
    samples=TRAINED,
    holdout=0.05,
)


@dataclass(frozen=True)
class Bench:
    """A dense network, teacher of all that descend from it, and how these are trained."""

    real: Real
    settings: Settings
    folder: Path
    """Holds the last whole epoch of each training."""

    def row(
        self, method: str, epochs: int, network: nn.Module | None, peer: str | None = None
    ) -> Row:
        """The figures of one network, or null where there is none."""
        heading = {"network": self.real.name, "method": method, "peer": peer, "epochs": epochs}
        if network is None:
            return {**heading, "macs_ratio": None, "top1": None}
        ratio = self.macs(network) / self.macs(self.real.network)
        return {**heading, "macs_ratio": ratio, "top1": self.real.top1(network)}

    def macs(self, network: nn.Module) -> int:
        """MACs of one image."""
        return macs_model(network.eval(), self.real.example).total((), {})

    def slimgate(
        self, macs_ratio: float, samples: int, recoveries: Sequence[Recovery]
    ) -> Iterator[Row]:
        """Pruned by slimgate, before and after its training."""
        found = self.real.calibration(samples)
        batch: tuple[Tensor, Tensor] = found.inputs, torch.from_numpy(found.targets)
        one = Selection()  # without trials
        slim = prune(self.real.network, [batch], macs_ratio, selection=one, recoveries=recoveries)
        names = ["reconstruction", *(done.name for done in slim.recoveries if done.kept)]
        yield from self.before_and_after(" + ".join(names), slim.network)

    def torch_pruning(self, macs_ratio: float, samples: int, importance: str) -> Iterator[Row]:
        """Pruned by Torch-Pruning over all layers together, before and after its training."""
        prepared = prepare(self.real, samples, 0, frozenset())
        (found,) = pruned_by_peer(prepared, importance, "global", [macs_ratio])
        name = f"{importance} global"
        if found.network is None:  # the log says why
            yield self.row(name, 0, None, PEER)
        else:
            yield from self.before_and_after(name, found.network.requires_grad_(True), PEER)

    def before_and_after(
        self, method: str, network: nn.Module, peer: str | None = None
    ) -> Iterator[Row]:
        """The row of a pruned network, and its row once the dense one has taught it."""
        yield self.row(method, 0, network, peer)
        fine_tune(network, self.real.network, self)
        yield self.row(method, self.settings.epochs, network, peer)


def fine_tune(network: nn.Module, teacher: nn.Module | None, bench: Bench) -> ProgressFile:
    """Train in place; the last epoch, from which a killed run of the same goes on."""
    start = bench.folder / "start.safetensors"
    write_weights(network, start)
    settings = bench.settings.model_dump(mode="json")
    name = value_digest([[*bench.real.example.shape], file_digest(start), settings])
    saved = ProgressFile(bench.folder / name, lambda: None)
    train(network, teacher, bench.real.task, bench.settings, saved)
    return saved


def last_epoch(network: nn.Module, saved: ProgressFile) -> None:
    """Give `network` the weights of the last epoch in place of those of the best."""
    last = saved.read(next(network.parameters()).device)
    assert last is not None
    load_weights(network, last.network, "the last epoch")


def all_rows(bench: Bench) -> Iterator[Row]:
    """The most important first, for a run may end early."""
    dense = bench.real.network
    yield bench.row("dense", 0, dense)
    for ratio in MACS_RATIOS:
        yield from bench.slimgate(ratio, SAMPLES, (LeastSquares(),))
    trained = deepcopy(dense)
    last_epoch(trained, fine_tune(trained, dense, bench))
    yield bench.row("dense", bench.settings.epochs, trained)
    yield from bench.torch_pruning(PEER_RATIO, SAMPLES, PEER_IMPORTANCE)


def spread_of(rows: Sequence[Row], images: int) -> Spread:
    """`top1`: its largest standard error."""
    return {"top1": max(standard_error(rate, images) for rate in numbers(rows, "top1"))}


def main() -> None:
    options = parse_options(__doc__)
    real = load(NETWORK, options.data, TESTS)
    with options.folder() as folder:
        rows = list(told(timed(all_rows(Bench(real, SETTINGS, folder)))))
    report(rows, spread_of(rows, len(real.labels)), options)


if __name__ == "__main__":
    main()
