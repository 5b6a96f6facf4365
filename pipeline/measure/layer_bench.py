"""Times of layers alone at many widths, each layer's in one process of the target's machine."""

from collections.abc import Iterator
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


@dataclass(frozen=True)
class LayerBench:
    """A runtime on the machine of a target, on which layers alone are timed."""

    place: Place
    engine: str
    """The name of the runtime: one with TIMES_LAYERS."""
    options: EngineOptions
    batch: int
    clock: Clock

    def time(self, shape: LayerShape) -> LayerTime:
        """The layer's time with all of its channels, and how it goes with those of each side.

        Raises StageError where the machine is too noisy to tell widths apart.
        """
        at = {shape: "whole"}
        for side, channels in _widths_of(shape):
            at.setdefault(shape.at(side, channels), f"{side} {channels}")
        ms = self._measured(shape, at)
        whole = ms["whole"]

        def curve(side: Side) -> Curve:
            widths = [channels for at_side, channels in _widths_of(shape) if at_side == side]
            names = [at[shape.at(side, channels)] for channels in widths]
            return Curve(channels=tuple(widths), parts=tuple(ms[name] / whole for name in names))

        inputs = None if shape.is_depthwise else curve("in")
        return LayerTime(ms=whole / copies_of(shape), outputs=curve("out"), inputs=inputs)

    def _measured(self, shape: LayerShape, at: dict[LayerShape, str]) -> dict[str, float]:
        """Milliseconds of the engine of each shape, by its name."""
        exporter = runtime(self.engine, self.options)
        assert isinstance(exporter, OnnxExporter)
        int8 = exporter.INT8 if self.options.precision == "int8" else None
        with TemporaryDirectory() as folder:
            engines = {}
            for one, name in at.items():
                path = str(Path(folder) / f"{name}{exporter.suffix}")
                model = side_by_side(one, self.batch, copies_of(shape), int8).SerializeToString()
                exporter.build_prepared(PreparedModel(model, ()), Path(path))
                engines[name] = EngineFile(runtime=self.engine, options=self.options, path=path)
            rounds: dict[str, list[float]] = {name: [] for name in engines}
            for seed in range(SESSIONS):
                more = max(ROUNDS, len(rounds["whole"]))
                job = CompareJob(engines=engines, batch=self.batch, rounds=more, seed=seed)
                for name, times in compared(self.place, job, self.clock).items():
                    rounds[name] += times
                noise = median(_error(times) for times in rounds.values())
                if noise <= MAX_NOISE:
                    return {name: median(times) / 1e6 for name, times in rounds.items()}
        raise StageError(
            f"{self.place.name}: the times of single layers are uncertain by {100 * noise:.0f} % "
            f"({100 * MAX_NOISE:.0f} % allowed), and it would take {(noise / MAX_NOISE) ** 2:.1f} "
            "times as long to tell widths apart: end what else runs there and run again, or set "
            "prune.macs_ratio, which needs no measuring"
        )


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


def _widths_of(shape: LayerShape) -> Iterator[tuple[Side, int]]:
    """The side and the channels of each width of a layer that is timed."""
    groups = 1 if shape.is_depthwise else shape.groups
    sides: tuple[Side, ...] = ("out",) if shape.is_depthwise else ("out", "in")
    for side in sides:
        for channels in timed_widths(shape.channels(side), groups):
            yield side, channels


def _error(rounds: list[float]) -> float:
    """About the standard error of the median of some rounds, over that median."""
    middle = median(rounds)
    spread = 1.4826 * median(abs(one - middle) for one in rounds)
    return float(1.2533 * spread / np.sqrt(len(rounds)) / middle)
