"""What pruning does to engines of TensorRT-RTX, as far as that can be seen without a GPU.

Torchvision's networks, dense and pruned to half of the MACs by magnitude, alike in every group.
Weights are those of `--data` where there are any, else random with random batch-norm statistics:
sizes and kernels do not depend on them. No engine is run. Rows: network, pruned, precision, batch,
compute_capability, engine_mib, weights_mib, activation_mib, kernels, seconds.

- pruned: dense or half
- batch: static is 1; dynamic has memory for its largest, 8
- activation_mib: what the engine allocates on the GPU besides its weights
- kernels: what the GPU is given to do for one batch
- seconds: conversion to the precision and build

A row without figures could not be built; stderr says why. `spread` is between two equal builds.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import Figure, Row, parse_options, report
from real import told
from shapes import load, pruned
from torch import nn

from exporters.exporter import Source, runtime
from exporters.graph.to_onnx import to_onnx
from pipeline.prune.channel_counts import Widths
from profiles.device import EngineOptions, Precision
from profiles.errors import StageError

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
COMPUTE_CAPABILITIES = ("8.6", "8.9", "12.0")
MACS_RATIO = 0.5
OPSET = 20
MIB = 2**20

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Case:
    """A network as ONNX, at one place of the table."""

    network: str
    pruned: str
    batch: str
    source: Source

    def row(self, precision: Precision, compute_capability: str) -> Row:
        """Build the engine and throw it away."""
        figures: dict[str, Figure] = dict.fromkeys(
            ("engine_mib", "weights_mib", "activation_mib", "kernels", "seconds")
        )
        with TemporaryDirectory() as folder:
            engine = Path(folder) / "engine"
            options = EngineOptions(precision=precision, compute_capability=compute_capability)
            exporter = runtime("trt", options)
            start = time.perf_counter()
            try:
                facts = exporter.build(self.source, engine)
            except StageError as error:
                log.info("%s, %s, %s: %s", self.network, self.pruned, precision, error)
            else:
                figures = {
                    "engine_mib": engine.stat().st_size / MIB,
                    "weights_mib": _mib(facts.weights_bytes),
                    "activation_mib": _mib(facts.activation_bytes),
                    "kernels": facts.layers,
                    "seconds": time.perf_counter() - start,
                }
        return {
            "network": self.network,
            "pruned": self.pruned,
            "precision": precision,
            "batch": self.batch,
            "compute_capability": compute_capability,
            **figures,
        }


def cases(name: str, data: Path, folder: Path) -> Iterator[Case]:
    """One network, dense and pruned, with its batch fixed and free."""
    inputs = torch.from_numpy(
        np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    )
    dense = load(name, data)
    half = pruned(dense, inputs, MACS_RATIO, Widths())
    for width, network in {"dense": dense, "half": half}.items():
        for batch, free in {"static": False, "dynamic": True}.items():
            path = folder / f"{name}-{width}-{batch}.onnx"
            model = to_onnx(network, [inputs[:1].numpy()], OPSET, free).model
            path.write_bytes(model.SerializeToString())
            yield Case(name, width, batch, Source(path, inputs.numpy(), _same(network)))


def _same(network: nn.Module) -> Callable[[], nn.Module]:
    return lambda: network


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB


def all_rows(
    data: Path, folder: Path, networks: tuple[str, ...], spread: dict[str, float]
) -> Iterator[Row]:
    """Every combination; the first is built twice for `spread`."""
    for name in networks:
        for case in cases(name, data, folder):
            for precision, capability in product(PRECISIONS, COMPUTE_CAPABILITIES):
                row = case.row(precision, capability)
                yield row
                if not spread:
                    again = case.row(precision, capability)
                    spread.update(
                        {
                            key: abs(value - other)
                            for key, value in row.items()
                            if isinstance(value, float) and isinstance(other := again[key], float)
                        }
                    )


def main() -> None:
    options = parse_options(__doc__)
    spread: dict[str, float] = {}
    with options.folder() as folder:
        rows = list(told(all_rows(options.data, folder, NETWORKS, spread)))
    report(rows, spread, options)


if __name__ == "__main__":
    main()
