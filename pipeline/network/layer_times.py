"""Time of a network as a function of its layers' widths, from times of its layers alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from pipeline.data.arrays import Float64, IntArray
from profiles.spec import Spec

STEP, MOST_WIDTHS = 4, 32
"""The channels between two widths that are timed, twice as many until no more widths than that are
left."""


def timed_widths(channels: int, groups: int) -> tuple[int, ...]:
    """The widths, of so many channels in so many groups, that are timed; the last is all."""
    in_group = channels // groups
    step = STEP if in_group > 2 * STEP else 1
    while in_group > step * MOST_WIDTHS:
        step *= 2
    return tuple(groups * one for one in (*range(step, in_group, step), in_group))


class Curve(Spec):
    """How a layer's time goes with the channels of one side."""

    channels: tuple[PositiveInt, ...]
    """Ascending; the last are all."""
    parts: tuple[PositiveFloat, ...]
    """Of the time with all of them."""

    def table(self) -> Float64:
        """The part at every number of channels from 0 to all, [all + 1]; straight in between."""
        return np.interp(np.arange(self.channels[-1] + 1), self.channels, self.parts)


class LayerTime(Spec):
    """One layer at one size of its inputs."""

    ms: PositiveFloat
    """With all channels."""
    outputs: Curve
    inputs: Curve | None
    """None where inputs go with outputs."""


class NetworkTimes(Spec):
    """What the times of a network's layers alone are on one device, by their names.

    A layer has several where it runs several times.
    """

    layers: dict[str, tuple[LayerTime, ...]]

    def total_ms(self) -> float:
        """Of all layers, as often as they run."""
        return sum(run.ms for runs in self.layers.values() for run in runs)

    def of_network(self, part: float, dense_ms: float) -> float:
        """The part of a network's time that is left with that part of its layers' time.

        What the dense network takes beyond its layers stays.
        """
        fixed = max(0.0, 1 - self.total_ms() / dense_ms)
        return fixed + (1 - fixed) * part


@dataclass(frozen=True)
class TimeModel:
    """The time of a network over that of the dense one: that of its layers, each as a product.

    `ms * outputs.part * inputs.part`: exact for times that go with MACs, in steps or not.
    """

    ms: Float64
    """[runs]: of every layer, as often as it runs."""
    places: IntArray
    """[runs]: the place of the layer among the layers of the network."""
    tables: Float64
    """All curves, one after the other."""
    starts: tuple[IntArray, IntArray]
    """Where the curves of outputs and of inputs begin in `tables`, each [runs]."""

    def at(self, outputs: IntArray, inputs: IntArray) -> float:
        """The part of the time that is left when layers keep so many channels, each [layers]."""
        of_outputs, of_inputs = self.starts
        parts = self.tables[of_outputs + outputs[self.places]]
        parts = parts * self.tables[of_inputs + inputs[self.places]]
        return float(self.ms @ parts / self.ms.sum())


def time_model(times: NetworkTimes, channels: Mapping[str, tuple[int, int]]) -> TimeModel:
    """The model for a network whose layers have so many output and input channels, in this order.

    Layers that were not timed take no time.
    """
    names = {name: place for place, name in enumerate(channels)}
    ms, places = [], []
    tables: list[Float64] = []
    starts: tuple[list[int], list[int]] = ([], [])
    length = 0
    for name, runs in times.layers.items():
        for run in runs if name in names else ():
            ms.append(run.ms)
            places.append(names[name])
            for side, curve in enumerate((run.outputs, run.inputs)):
                table = curve.table() if curve else np.ones(channels[name][side] + 1)
                starts[side].append(length)
                tables.append(table)
                length += len(table)
    return TimeModel(
        np.array(ms),
        np.array(places, dtype=np.int64),
        np.concatenate(tables),
        (np.array(starts[0], dtype=np.int64), np.array(starts[1], dtype=np.int64)),
    )
