"""What the evidence and the terms of a bundle say, beside what its other files say."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ConfigDict

from exporters.graph.macs import count
from exporters.graph.open import checked_onnx
from pipeline.data.digest import file_digest
from pipeline.release.terms import Terms
from profiles.budget import Budget
from profiles.errors import IntegrityError, reading_error
from profiles.measurement import CallTimes, EngineEvidence, Measurement
from profiles.spec import Spec, read_spec

SHORTEST_CALL_NS = 100
"""Clocks of processors take tens of nanoseconds to read; no call of an engine is so short."""


class _Target(Spec):
    """What the recipe of a bundle asks of one device."""

    model_config = ConfigDict(extra="ignore")

    name: str | None
    device: str
    budget: Budget | None


class _Recipe(Spec):
    """The targets of the recipe of a bundle."""

    model_config = ConfigDict(extra="ignore")

    target: tuple[_Target, ...]


def require_consistent(folder: Path, terms: Terms, measurement: Measurement) -> None:
    """Raise IntegrityError where evidence or budget contradict the other files of the bundle."""
    for contradiction in _contradictions(folder, terms, measurement):
        raise IntegrityError(
            f"{folder / terms.measurement}: {contradiction}: do not ship this bundle, make it again"
        )


def _contradictions(folder: Path, terms: Terms, measurement: Measurement) -> Iterator[str]:
    shipped, dense = measurement.shipped, measurement.dense
    if dense.sha256 != file_digest(folder / terms.dense):
        yield f"another dense engine than {terms.dense} was measured"
    yield from _of_file(folder / terms.engine, shipped)
    yield from _of_file(folder / terms.dense, dense)
    model = folder / "model.onnx"  # as its manifest says: it may be a hard link
    try:
        raw = model.read_bytes()
    except OSError as error:
        raise reading_error(model, error) from error
    cost = count(checked_onnx(raw, model))
    if (shipped.macs, shipped.parameters) != (cost.macs, cost.parameters):
        yield (
            f"{shipped.macs} MACs and {shipped.parameters} parameters are told, model.onnx has "
            f"{cost.macs} and {cost.parameters}"
        )
    budget = _asked(folder, terms)
    if budget != terms.budget:
        yield f"targets.json holds another budget for {terms.device_name} than recipe.json"
    yield from _implausible(measurement)


def _of_file(path: Path, engine: EngineEvidence) -> Iterator[str]:
    size = path.stat().st_size
    if engine.size_bytes != size:
        yield f"{engine.size_bytes} bytes are told of {path.name}, which has {size}"


def _asked(folder: Path, terms: Terms) -> Budget | None:
    """The budget of the recipe's target, or its device's own where the recipe leaves it open."""
    for target in read_spec(folder / "recipe.json", _Recipe).target:
        if (target.name or Path(target.device).stem) == terms.device_name:
            return target.budget or terms.device.budget
    return None


def _implausible(measurement: Measurement) -> Iterator[str]:
    for engine in (measurement.dense, measurement.shipped):
        outside = [score for score in engine.scores if score < 0 or 1 < score < float("inf")]
        if outside:
            yield f"a score of {outside[0]:g} is not between 0 and 1"
        if len(set(engine.starts)) < len(engine.starts):
            yield "two starts are the same to the last digit"
    labels, scores = measurement.labels, measurement.shipped.scores
    if labels and len(scores) == len(measurement.dense.scores) > 0 and len(labels) != len(scores):
        yield f"{len(scores)} scores are told of {len(labels)} samples"
    runs = measurement.latency
    if len(set(runs)) < len(runs):
        yield "two timed processes are the same to the last digit"
    for run in runs:
        yield from _too_short(run.dense)
        yield from _too_short(run.shipped)


def _too_short(calls: CallTimes) -> Iterator[str]:
    shortest = min((ns for ns in calls.wall_ns if ns > 0), default=SHORTEST_CALL_NS)
    if shortest < SHORTEST_CALL_NS:
        yield f"a call of {shortest} ns is shorter than a clock can tell"
