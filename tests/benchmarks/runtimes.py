"""Which runtime is fastest on this CPU, and what each makes of the network it was given.

MobileNetV2 with its weights and ResNet-50, dense and at half of the MACs in multiples of 8
channels, on every runtime that runs here, at every precision it has. One thread, a batch of one.
Rows: network, pruned, runtime, precision, peer, ok, reason, error, top1_agreement, top1, size_mib,
cpu_ratio, cpu_lower, cpu_upper, wall_ratio.

- peer: null for all; ONNX Runtime at fp32, dense, is what the others are relative to
- pruned: dense or half; MobileNetV2 is repaired on 250 images, without training
- error, top1_agreement: the engine's outputs against the ONNX model's, and whether both name the
  same class where the model is decided; what the tolerance of the precision does not allow is
  refused (`ok`)
- top1: of the very engine, on the 500 ImageNet images (MobileNetV2 only; the repair has seen 250
  of them without their labels, int8 has its ranges from 64 of those)
- cpu_ratio: CPU time / that of the dense network on ONNX Runtime at fp32, with bounds over
  PROCESSES fresh processes, in each of which all engines of a network are interleaved;
  wall_ratio: the same of wall time, medians, for what it is worth on a shared machine

`spread`: how far a second session of the same engine file is from 1. A runtime that is not
installed has no row; stderr says so. `--full` doubles the processes.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from common import Figure, Row, parse_options, report
from real import load as load_real
from real import told
from shapes import load, pruned
from torch import Tensor, nn

from exporters.arrays import FloatArray
from exporters.exporter import Exporter, Source, call_one, runtime
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import to_onnx
from exporters.parity import Network, compare, feeds_of, require_agreement
from exporters.worker import EngineFile, Job, LatencyJob
from pipeline.api import Selection, prune
from pipeline.data.batches import batches
from pipeline.measure.feeds import images_and_others, parity_inputs
from pipeline.measure.places import ThisMachine
from pipeline.prune.channel_counts import Widths
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.stages.engine_stage import INT8_SAMPLES
from pipeline.task import Task
from profiles.device import EngineOptions
from profiles.errors import MissingExtra, SlimgateError
from profiles.measurement import MIB, CallTimes, time_ratio
from profiles.plugins import plugin, plugin_names

MOBILENET = "mobilenet_v2"
NETWORKS = (MOBILENET, "resnet50")
MACS_RATIO = 0.5
MULTIPLE = 8
REPAIRED_ON = 250
OPSET = 20
PROCESSES = 5
SECONDS = 40
REFERENCE = "dense ort fp32"
"""What all are relative to."""
CONTROL = "control"
"""A second session of it."""
FIGURES = ("cpu_ratio", "cpu_lower", "cpu_upper", "wall_ratio")

log = logging.getLogger("slimgate.benchmark")


@dataclass(frozen=True)
class Subject:
    """A network at one width, and what its engines are held to."""

    name: str
    width: str
    network: nn.Module
    images: FloatArray
    """[n, 3, 224, 224]: what engines are held to."""
    others: FloatArray
    """Noise and edges, on which less is asked."""
    calibration: FloatArray
    """[INT8_SAMPLES, 3, 224, 224]"""
    task: Task | None
    """None where there are no trained weights."""


@dataclass(frozen=True)
class Built:
    """A row but for its times, and the engine if it may be timed."""

    row: dict[str, Figure]
    engine: EngineFile | None

    @property
    def label(self) -> str:
        return " ".join(str(self.row[key]) for key in ("pruned", "runtime", "precision"))


def subjects(name: str, data: Path) -> Iterator[Subject]:
    """The network, dense and pruned by half."""
    widths = Widths(multiple=MULTIPLE, floor=MULTIPLE)
    if name == MOBILENET:
        real = load_real(name, data)
        found = real.calibration(REPAIRED_ON)
        batch: tuple[Tensor, Tensor] = found.inputs, torch.from_numpy(found.targets)
        repair = (LeastSquares(steps=0, rows=8_000),)
        selection = Selection(widths=widths)
        half = prune(
            real.network, [batch], MACS_RATIO, selection=selection, recoveries=repair
        ).network
        images, others = images_and_others(parity_inputs(real.task))
        calibration = found.inputs[:INT8_SAMPLES].numpy()
        networks = {"dense": real.network, "half": half}
        task: Task | None = real.task
    else:
        torch.manual_seed(0)
        inputs = torch.randn(INT8_SAMPLES, 3, 224, 224)
        dense = load(name, data)
        networks = {"dense": dense, "half": pruned(dense, inputs, MACS_RATIO, widths)}
        images, others = inputs[:16].numpy(), inputs[16:24].numpy()
        calibration, task = inputs.numpy(), None
    for width, network in networks.items():
        yield Subject(name, width, network, images, others, calibration, task)


def exporters() -> Iterator[tuple[str, EngineOptions, Exporter]]:
    """Every runtime that runs here, at every precision it has."""
    for name in plugin_names("exporters.engines"):
        try:
            kind = plugin("exporters.engines", name, Exporter)  # type: ignore[type-abstract]
        except MissingExtra as missing:
            log.warning("%s: %s", name, missing)
            continue
        for precision in kind.PRECISIONS:
            options = EngineOptions(precision=precision)
            exporter = runtime(name, options)
            if reason := exporter.unavailable_reason():
                log.warning("%s %s: %s", name, precision, reason)
            else:
                yield name, options, exporter


def builds(subject: Subject, folder: Path) -> Iterator[Built]:
    """The network on every runtime."""
    images, others = feeds_of(subject.images, False), feeds_of(subject.others, False)
    exported = to_onnx(subject.network, [*images, *others], OPSET, False).model
    model = simplify(exported, [*images, *others]).model.SerializeToString()
    path = folder / f"{subject.name}-{subject.width}.onnx"
    path.write_bytes(model)
    source = Source(path, subject.calibration, lambda: subject.network)
    reference = plain_network(model)
    for name, options, exporter in exporters():
        precision = options.precision
        engine = path.with_name(f"{path.stem}-{name}-{precision}{exporter.suffix}")
        row: dict[str, Figure] = {
            **{"network": subject.name, "pruned": subject.width, "runtime": name},
            **{"precision": precision, "peer": None, "ok": False, "reason": None},
            **dict.fromkeys(("error", "top1_agreement", "top1", "size_mib")),
        }
        file = None
        try:
            exporter.build(source, engine)
            row["size_mib"] = engine.stat().st_size / MIB
            answers = partial(call_one, exporter.open(engine))
            found = compare(reference, answers, images)
            row.update(error=found.error, top1_agreement=found.top1_agreement)
            require_agreement(name, (reference, answers), (images, others), precision)
            if subject.task:
                row["top1"] = top1(subject.task, answers)
            row["ok"], file = True, EngineFile(runtime=name, options=options, path=str(engine))
        except SlimgateError as error:
            row["reason"] = str(error).splitlines()[0]
        built = Built(row, file)
        log.info("%s %s: %s", subject.name, built.label, row)
        yield built


def timed(built: Sequence[Built], processes: int) -> list[Mapping[str, CallTimes]]:
    """All engines interleaved, by label, in each of some fresh processes."""
    engines = {b.label: b.engine for b in built if b.engine}
    engines[CONTROL] = engines[REFERENCE]
    runs: list[Mapping[str, CallTimes]] = []
    for seed in range(processes):
        names = [str(n) for n in np.random.default_rng(seed).permutation(list(engines))]
        job = LatencyJob(
            engines={name: engines[name] for name in names},
            batch=1,
            seconds=SECONDS,
            least_samples=30,
            seed=seed,
        )
        answer = json.loads(ThisMachine().answer(Job(latency=job)))
        runs.append({name: CallTimes.model_validate(answer[name]) for name in names})
    return runs


def rows_of(
    name: str, data: Path, folder: Path, processes: int, spread: dict[str, float]
) -> Iterator[Row]:
    """All engines of one network; `spread` gets how far the worst of them is from itself."""
    built = [one for subject in subjects(name, data) for one in builds(subject, folder)]
    runs = timed(built, processes)
    beside = [run[REFERENCE] for run in runs]
    for one in built:
        figures: Mapping[str, Figure] = dict.fromkeys(FIGURES)
        if one.engine:
            figures = ratios([run[one.label] for run in runs], beside)
        yield {**one.row, **figures}
    for figure, value in ratios([run[CONTROL] for run in runs], beside).items():
        spread[figure] = max(spread.get(figure, 0.0), abs(value - 1))


def ratios(above: Sequence[CallTimes], below: Sequence[CallTimes]) -> dict[str, float]:
    """Of times, one of each in every process."""
    cpu = time_ratio(above, below, "cpu")
    walls = [
        float(np.median(a.wall_ns) / np.median(b.wall_ns))
        for a, b in zip(above, below, strict=True)
    ]
    found = (cpu.measured, cpu.lower, cpu.upper, float(np.median(walls)))
    return dict(zip(FIGURES, found, strict=True))


def top1(task: Task, network: Network) -> float:
    """Of a network that takes one image at a time, on all images there are."""
    right: list[bool] = []
    for data in (task.train, task.validation):
        for inputs, targets in batches(data, range(len(data)), 1):
            right.append(int(network(inputs).argmax()) == int(targets[0]))
    return float(np.mean(right))


def main() -> None:
    options = parse_options(__doc__)
    spread: dict[str, float] = {}
    processes = PROCESSES * (1 + options.full)
    with options.folder() as folder:
        found = (rows_of(name, options.data, folder, processes, spread) for name in NETWORKS)
        rows = list(told(chain.from_iterable(found)))
    report(rows, spread, options)


if __name__ == "__main__":
    main()
