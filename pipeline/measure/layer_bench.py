"""Times of layers alone at many widths, each layer's in one process of the target's machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import ValidationError

from exporters.exporter import OnnxExporter, PreparedModel, runtime
from exporters.graph.layer_model import copies_of, side_by_side
from exporters.graph.layer_shape import LayerShape, Side
from exporters.worker import CompareJob, EngineFile, Job
from pipeline.measure.places import Place
from pipeline.network.layer_times import Curve, LayerTime, timed_widths
from profiles.device import EngineOptions
from profiles.errors import DeviceError, StageError
from profiles.measurement import Clock
from profiles.spec import Spec, explain

ROUNDS = 5
SESSIONS = 3
"""How often a layer is timed at most, each time with as many rounds as there are already."""
MAX_NOISE = 0.04
"""How uncertain times may be, relative, before more rounds are added."""
MANY_WEIGHTS = 8_000_000
"""Of a layer that takes long to build, and whose time goes with its weights."""
MOST_VALUES = 64_000_000
"""Weights, inputs and outputs of all engines that are loaded together."""


@dataclass(frozen=True)
class LayerBench:
    """A runtime on the machine of a target, on which layers alone are timed."""

    place: Place
    engine: str
    """The name of the runtime: one with TIMES_LAYERS."""
    options: EngineOptions
    batch: int
    clock: Clock
    scratch: Path
    """The folder for engines while they are timed."""

    def time(self, shape: LayerShape) -> LayerTime:
        """The layer's time with all of its channels, and how it goes with those of each side.

        Raises StageError where the machine is too noisy to tell widths apart.
        """
        whole, parts = [], {shape: 1.0}
        for others in together(shape, self.batch):
            ms = self._measured(shape, others)
            whole.append(ms[shape])
            parts |= {other: ms[other] / ms[shape] for other in others}

        def curve(side: Side) -> Curve:
            widths = _widths(shape, side)
            of_widths = tuple(parts[shape.at(side, channels)] for channels in widths)
            return Curve(channels=widths, parts=of_widths)

        inputs = None if shape.is_depthwise else curve("in")
        ms_alone = median(whole) / copies_of(shape)
        return LayerTime(ms=ms_alone, outputs=curve("out"), inputs=inputs)

    def _measured(
        self, shape: LayerShape, others: Sequence[LayerShape]
    ) -> Mapping[LayerShape, float]:
        """Milliseconds of the engine of the layer and of the same at other widths."""
        names = {one: str(number) for number, one in enumerate((shape, *others))}
        with TemporaryDirectory(dir=self.scratch) as folder:
            engines = {name: self._engine(shape, one, folder) for one, name in names.items()}
            rounds: dict[str, list[float]] = {name: [] for name in engines}
            for seed in range(SESSIONS):
                more = max(ROUNDS, len(rounds[names[shape]]))
                job = CompareJob(engines=engines, batch=self.batch, rounds=more, seed=seed)
                for name, times in compared(self.place, job, self.clock).items():
                    rounds[name] += times
                noise = median(_error(times) for times in rounds.values())
                if noise <= MAX_NOISE:
                    return {one: median(rounds[name]) / 1e6 for one, name in names.items()}
        raise StageError(
            f"{self.place.name}: the times of single layers are uncertain by {100 * noise:.0f} % "
            f"({100 * MAX_NOISE:.0f} % allowed), and it would take {(noise / MAX_NOISE) ** 2:.1f} "
            "times as long to tell widths apart: end what else runs there and run again, or set "
            "prune.macs_ratio, which needs no measuring"
        )

    def _engine(self, shape: LayerShape, one: LayerShape, folder: str) -> EngineFile:
        """An engine of `one`, as often side by side as it is of the whole layer."""
        exporter = runtime(self.engine, self.options)
        assert isinstance(exporter, OnnxExporter)
        int8 = exporter.INT8 if self.options.precision == "int8" else None
        model = side_by_side(one, self.batch, copies_of(shape), int8).SerializeToString()
        path = Path(folder) / f"{one.inputs}x{one.outputs}{exporter.suffix}"
        exporter.build_prepared(PreparedModel(model, ()), path)
        return EngineFile(runtime=self.engine, options=self.options, path=str(path))


def compared(place: Place, job: CompareJob, clock: Clock) -> dict[str, list[float]]:
    """Nanoseconds of each engine of the job in each round, by its name.

    Raises DeviceError for an answer that lacks some.
    """
    text = place.answer(Job(compare=job))
    try:
        found = _Compared.model_validate_json(text).by(clock)
    except ValidationError as error:
        what = f"{place.name}: its reply could not be parsed"
        raise DeviceError(explain(error, _Compared, what)) from error
    whole = all(len(times) == job.rounds and min(times) > 0 for times in found.values())
    if found.keys() != job.engines.keys() or not whole:
        raise DeviceError(f"{place.name}: its reply lacks times; run again")
    return found


class _Compared(Spec):
    """Nanoseconds of each engine in each round, by its name."""

    wall_ns: dict[str, list[float]]
    cpu_ns: dict[str, list[float]]

    def by(self, clock: Clock) -> dict[str, list[float]]:
        return self.cpu_ns if clock == "cpu" else self.wall_ns


def _widths(shape: LayerShape, side: Side) -> tuple[int, ...]:
    """The numbers of channels on one side at which a layer is timed; few where that takes long."""
    found = timed_widths(shape.channels(side), 1 if shape.is_depthwise else shape.groups)
    return found if shape.weights() <= MANY_WEIGHTS else found[::-4][::-1]


def together(shape: LayerShape, batch: int) -> list[list[LayerShape]]:
    """The layer at its other widths, those together that memory has room for beside it."""
    sides: tuple[Side, ...] = ("out",) if shape.is_depthwise else ("out", "in")
    parts: list[list[LayerShape]] = [[]]
    for other in (shape.at(side, width) for side in sides for width in _widths(shape, side)[:-1]):
        taken = sum(_values(one, batch, copies_of(shape)) for one in (shape, *parts[-1], other))
        if parts[-1] and taken > MOST_VALUES:
            parts.append([])
        parts[-1].append(other)
    return parts


def _values(shape: LayerShape, batch: int, copies: int) -> int:
    """The numbers that an engine holds."""
    return copies * shape.weights() + batch * shape.values(copies)


def _error(rounds: list[float]) -> float:
    """About the standard error of the median of some rounds, over that median."""
    middle = median(rounds)
    spread = 1.4826 * median(abs(one - middle) for one in rounds)
    return float(1.2533 * spread / np.sqrt(len(rounds)) / middle)
