"""The widths at which a group's time falls, from the times of its layers alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.data.arrays import Float64
from pipeline.network.costs import MacsModel
from pipeline.network.groups import Group
from pipeline.network.layer_times import timed_widths
from pipeline.prune.allocators import Staircase
from pipeline.prune.channel_counts import Widths

WORTH = 0.02
"""A width is worth keeping that saves as much more of what all of the group's widths can save."""


def with_staircases(widths: Widths, groups: Sequence[Group], model: MacsModel) -> Widths:
    """Of `widths` those at which the times that `model` knows fall, group by group.

    Those that were timed, and multiples where none of these is one.
    """
    costs = model.over(groups)
    whole = {group.name: group.size for group in groups}
    found = {}
    for group in groups:
        units = np.array(list(_units(group, widths)))
        times = np.array([costs.at({**whole, group.name: int(kept)}).time for kept in units])
        worth = _worth(times)
        found[group.name] = Staircase(units[worth], times[worth])
    return replace(widths, staircases=found)


def _units(group: Group, widths: Widths) -> Iterator[int]:
    """The numbers of units that may be kept, ascending."""
    width = group.channels // group.size
    step = group.unit_multiple(widths.multiple)
    timed = [channels // width for channels in timed_widths(group.channels, width)]
    wanted = [units for units in timed if units % step == 0] or list(range(step, group.size, step))
    least = widths.smallest(group)
    yield from (units for units in wanted if least <= units < group.size)
    yield group.size


def _worth(times: Float64) -> list[int]:
    """The places, ascending, whose times are below those of all that come after."""
    least = WORTH * (times[-1] - times.min())
    kept = [len(times) - 1]
    for place in range(len(times) - 2, -1, -1):
        if times[kept[-1]] - times[place] > least:
            kept.append(place)
    return kept[::-1]
