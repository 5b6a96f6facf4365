"""Which runtime is best for this device: every engine verified, scored, and timed beside one."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from exporters.exporter import exporter_class, runtime, runtime_names
from exporters.worker import EngineFile
from pipeline.flow import Flow
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, score_engine, time_engines, timing_of
from pipeline.report.text import aligned
from pipeline.stages.build import Build
from profiles.device import DEFAULT_ENGINE, Precision
from profiles.errors import ConfigError, MissingExtra, SlimgateError
from profiles.measurement import MIB, time_ratio
from profiles.requirements import MAX_CONTROL_ERROR, control_error
from profiles.statistics import Interval

log = logging.getLogger("slimgate")

ALL = "all"
REFERENCE: tuple[str, Precision] = (DEFAULT_ENGINE, "fp32")
"""The runtime and precision that the others are timed beside."""


@dataclass(frozen=True)
class Compared:
    """One runtime at one precision. Figures that there are not are None."""

    engine: str
    precision: Precision
    status: str
    """verified, unverified (built, but it cannot run here) or refused."""
    reason: str
    path: Path | None = None
    size_mib: float | None = None
    error: float | None = None
    top1_agreement: float | None = None
    score: float | None = None
    """The mean of the task's metric, from this very engine."""
    time_ratio: Interval | None = None
    """Time / that of the reference, by the device's clock, with bounds over the processes."""
    control_error: float | None = None
    """How far the reference was from itself in the same session."""


def engines_named(names: str) -> tuple[str, ...]:
    """`all` or names with commas between. Raises ConfigError for one that there is not."""
    known = runtime_names()
    asked = known if names == ALL else tuple(name.strip() for name in names.split(","))
    for name in asked:
        if name not in known:
            raise ConfigError(f"--engines: {name!r} is none of: {', '.join(known)}, {ALL}")
    return asked


def compare(flow: Flow, names: Sequence[str]) -> Iterator[Compared]:
    """Every precision of every runtime that is installed, the reference first."""
    build = reference(flow)
    beside = build.engine_file(flow.built_by(build).path)
    for name in sorted(names, key=lambda name: (name != REFERENCE[0], name)):
        try:
            runtime(name).environment()  # some look for their library only then
        except MissingExtra as missing:
            yield Compared(name, "fp32", "refused", str(missing))
            continue
        for precision in exporter_class(name).PRECISIONS:
            yield _compared(flow, name, precision, beside)


def _compared(flow: Flow, name: str, precision: Precision, beside: EngineFile) -> Compared:
    log.info("%s %s", name, precision)
    try:
        build = _build(flow, name, precision)
        engine = flow.built_by(build)
        report, size = engine.report(), engine.path.stat().st_size / MIB
        if report.parity is None:
            return Compared(name, precision, "unverified", report.unverified, engine.path, size)
        file = build.engine_file(engine.path)
        scores = score_engine(ThisMachine(), file, flow.dense.task).values
        timing = timing_of(flow.targets[0].device, flow.targets[0].budget, flow.recipe.measure)
        runs = time_engines(ThisMachine(), EnginePair(beside, file), timing)
    except SlimgateError as error:
        return Compared(name, precision, "refused", str(error).splitlines()[0])
    control = control_error(runs, timing.clock)
    return Compared(
        name,
        precision,
        "verified",
        "" if control <= MAX_CONTROL_ERROR else f"timing is off by {control:.0%}: noisy machine",
        engine.path,
        size,
        report.parity.error,
        report.parity.top1_agreement,
        float(np.mean(scores)),
        time_ratio([r.shipped for r in runs], [r.dense for r in runs], timing.clock),
        control,
    )


def reference(flow: Flow) -> Build:
    """What builds the engine that the others are timed beside."""
    return _build(flow, *REFERENCE)


def _build(flow: Flow, name: str, precision: Precision) -> Build:
    options = flow.targets[0].device.options().model_copy(update={"precision": precision})
    return Build(engine=name, options=options)


def table(rows: Sequence[Compared]) -> str:
    """One line an engine, the fastest verified first."""
    head = ("engine", "precision", "", "MiB", "error", "same top-1", "score", "time", "")
    return aligned([head, *(_cells(row) for row in sorted(rows, key=_rank))])


def comparison_json(rows: Sequence[Compared]) -> str:
    """One versioned object; paths are left out."""
    found = []
    for row in rows:
        values = {name: value for name, value in asdict(row).items() if name != "path"}
        if row.time_ratio and not math.isfinite(row.time_ratio.upper - row.time_ratio.lower):
            values["time_ratio"] = None
        found.append(values)
    return json.dumps({"schema_version": 1, "engines": found}, indent=1, allow_nan=False)


def _rank(row: Compared) -> tuple[float, str, str]:
    return row.time_ratio.measured if row.time_ratio else math.inf, row.engine, row.precision


def _cells(row: Compared) -> tuple[str, ...]:
    ratio = row.time_ratio
    return (
        row.engine,
        row.precision,
        row.status,
        "" if row.size_mib is None else f"{row.size_mib:.2f}",
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.top1_agreement is None else f"{row.top1_agreement:.3f}",
        "" if row.score is None else f"{row.score:.4f}",
        "" if ratio is None else f"{ratio.measured:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}]",
        row.reason,
    )
