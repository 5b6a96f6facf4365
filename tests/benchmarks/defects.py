"""What the checks between two steps catch, and whether they raise false alarms.

Rows: chain, defect, caught, said, error, top1_agreement, others_error, others_top1.
A chain is a network, the exporter it goes through and the precision of its engine.

- `defect`: one of those in tests/helpers/seeded_defects.py, made to the graph of one small network
  as each exporter gives it, at the precision that it names; `caught` must be true
- `defect` null: 12 architectures, trained for a moment to tell ten patterns apart under noise, then
  exported, simplified and built for ONNX Runtime, each step with all its checks on patterns, noise
  and edges as the recipes have them; `caught` must be false
- `said` is what the check says; `error` and `top1_agreement` are the engine's against the ONNX
  model on patterns, `others_error` and `others_top1` on noise and edges, as far as it came

`--data` is not read. `--full` takes every network of tests/helpers/networks.py, not one.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
import torchvision
from common import Row, parse_options, report
from torch import nn

from exporters.arrays import FloatArray
from exporters.engines.ort import Ort
from exporters.exporter import Source, call_one
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import METHODS, export_by
from exporters.parity import Parity, compare, feeds_of, require_agreement
from pipeline.data.arrays import Targets
from pipeline.measure.feeds import RANDOM_INPUTS, REAL_INPUTS
from pipeline.task import cross_entropy
from profiles.device import Precision
from profiles.errors import StageError

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from networks import NETWORKS, Residual
from seeded_defects import DEFECTS
from varied_network import OPSET, sound

MODELS = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "densenet121",
    "regnet_x_400mf",
    "mnasnet0_5",
    "googlenet",
    "regnet_y_400mf",
)
SIDE, SMALL_SIDE = 64, 12
STEPS, BATCH, RATE = 120, 20, 4e-4
BRIGHTEST = 2.5
"""About what white is once ImageNet's mean and deviation are taken out."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def by_name(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network: nn.Module = torchvision.models.get_model(name, num_classes=10, **more)
        return network

    return build


@dataclass(frozen=True)
class Clean:
    """A trained network and its inputs."""

    network: nn.Module
    patterns: FloatArray
    """What int8 takes its ranges from."""
    others: FloatArray
    """Noise and edges."""


def pattern_batch(side: int, count: int, seed: int) -> tuple[FloatArray, Targets]:
    """Images of ten coarse patterns in turn, under weak to strong noise; and which they are."""
    coarse = np.random.default_rng(0).standard_normal((10, 3, 4, 4), np.float32)
    scale = -(-side // 4)
    whole = coarse.repeat(scale, 2).repeat(scale, 3)[:, :, :side, :side]
    targets = np.arange(count) % 10
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, 3, side, side), np.float32)
    strength = generator.uniform(0.1, 1.5, (count, 1, 1, 1)).astype(np.float32)
    return np.clip(whole[targets] + strength * noise, -BRIGHTEST, BRIGHTEST), targets


def trained(network: nn.Module, side: int) -> Clean:
    """Weights that mean something: random ones drown in rounding what they were given."""
    optimizer = torch.optim.Adam(network.train().parameters(), RATE)
    for step in range(STEPS):
        inputs, targets = pattern_batch(side, BATCH, step + 2)
        outputs = network(torch.from_numpy(inputs))
        # The networks of networks.py have fewer classes.
        loss = cross_entropy(outputs, torch.from_numpy(targets % outputs.shape[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    patterns, _ = pattern_batch(side, REAL_INPUTS, 0)
    noise = np.random.default_rng(1).standard_normal((RANDOM_INPUTS, *patterns.shape[1:]))
    edges = np.zeros((4, *patterns.shape[1:]))
    edges[0], edges[1], edges[2].flat[0] = patterns.max(), patterns.min(), 1
    others = np.concatenate([noise, edges], dtype=np.float32)
    return Clean(network.eval(), patterns, others)


def row(
    chain: str,
    defect: str | None,
    said: str,
    patterns: Parity | None = None,
    others: Parity | None = None,
) -> Row:
    return {
        "chain": chain,
        "defect": defect,
        "caught": bool(said),
        "said": said or None,
        "error": patterns.error if patterns else None,
        "top1_agreement": patterns.top1_agreement if patterns else None,
        "others_error": others.error if others else None,
        "others_top1": others.top1_agreement if others else None,
    }


def seeded_rows() -> Iterator[Row]:
    for method in METHODS:
        before = sound(method)
        for defect in DEFECTS:
            yield row(f"Varied {method}", defect.name, defect.refusal(before))


def clean_rows(name: str, build: Callable[[], nn.Module], side: int) -> Iterator[Row]:
    """One network through both exporters to engines of every precision."""
    torch.manual_seed(0)
    clean = trained(build(), side)
    for method in METHODS:
        chains = {precision: f"{name} {method} {precision}" for precision in PRECISIONS}
        try:
            feeds = feeds_of(np.concatenate([clean.patterns, clean.others]), True)
            model, _ = export_by(method, clean.network, feeds, OPSET, True)
            model = simplify(model, feeds).model
        except Exception as error:  # a false alarm by whatever step, of whatever class
            yield from (row(chain, None, said_by(error)) for chain in chains.values())
            continue
        for precision, chain in chains.items():
            yield engine_row(chain, clean, model, precision)


def engine_row(chain: str, clean: Clean, model: onnx.ModelProto, precision: Precision) -> Row:
    """How near the engine is to `model`, and what is said against it."""
    exporter = Ort(precision=precision)
    reference = plain_network(model.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            source = Source(path, clean.patterns, lambda: clean.network)
            exporter.build(source, path.with_name("engine.onnx"))
            session = exporter.open(path.with_name("engine.onnx"))
            feeds = (feeds_of(clean.patterns, True), feeds_of(clean.others, True))
            engine = partial(call_one, session)
            patterns, others = (compare(reference, engine, of) for of in feeds)
        except Exception as error:  # a false alarm by whatever step, of whatever class
            return row(chain, None, said_by(error))
    try:
        require_agreement("building", (reference, engine), feeds, precision)
    except StageError as error:
        return row(chain, None, said_by(error), patterns, others)
    return row(chain, None, "", patterns, others)


def said_by(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main() -> None:
    options = parse_options(__doc__)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = list(seeded_rows())
    small = NETWORKS if options.full else (Residual,)
    builders: dict[str, tuple[Callable[[], nn.Module], int]] = {
        kind.__name__: (kind, SMALL_SIDE) for kind in small
    }
    builders |= {name: (by_name(name), SIDE) for name in MODELS}
    for name, (build, side) in builders.items():
        rows += clean_rows(name, build, side)
        print(f"{name}: {sum(bool(one['caught']) for one in rows[-6:])} alarms", file=sys.stderr)
    report(rows, {"caught": 0.0}, options)


if __name__ == "__main__":
    main()
