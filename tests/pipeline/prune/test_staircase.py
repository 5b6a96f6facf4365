"""Widths at the edges of a staircase, and the network within a time, on devices of known truth."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.arrays import Float64
from pipeline.network.costs import MacsModel, macs_model
from pipeline.network.groups import Group, find_groups
from pipeline.network.layer_shapes import layer_shapes
from pipeline.network.layer_times import Curve, LayerTime, NetworkTimes
from pipeline.prune.allocators.reconstruction import Reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, Widths, candidates_of, largest_counts_within
from pipeline.prune.staircase import with_staircases
from profiles.errors import StageError

EXAMPLE = torch.zeros(1, 3, 8, 8)
SIZES = {"conv1": 32, "conv2": 48, "conv3": 64}


class Three(nn.Module):
    """Three groups in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 48, 3, padding=1)
        self.conv3 = nn.Conv2d(48, 64, 3, padding=1)
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(x).relu()).relu()).relu()
        answer: Tensor = self.fc(x.mean((2, 3)))
        return answer


def by_sixteen(channels: int) -> float:
    return float(np.ceil(channels / 16))


def made_of(device: Callable[[int], float], noise: float = 0.0) -> NetworkTimes:
    """The times of a device that pads channels as `device` says, read with some noise."""
    generator = np.random.default_rng(0)

    def curve(channels: int) -> Curve:
        widths = (*range(4, channels, 4), channels)
        parts = [device(one) / device(channels) * generator.normal(1, noise) for one in widths]
        return Curve(channels=widths, parts=tuple(parts))

    layers: dict[str, tuple[LayerTime, ...]] = {}
    for name, (shape,) in layer_shapes(Three().eval(), EXAMPLE).items():
        ms = device(shape.inputs) * device(shape.outputs) * np.prod(shape.kernel or (1,))
        curves = curve(shape.outputs), curve(shape.inputs)
        layers[name] = (LayerTime(ms=float(ms), outputs=curves[0], inputs=curves[1]),)
    return NetworkTimes(layers=layers)


def timed(
    device: Callable[[int], float], noise: float = 0.0
) -> tuple[tuple[Group, ...], MacsModel]:
    network = Three().eval()
    model = replace(macs_model(network, EXAMPLE), times=(made_of(device, noise),))
    return find_groups(network, EXAMPLE).groups, model


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_only_the_widths_at_which_time_falls_are_kept(noise: float) -> None:
    groups, model = timed(by_sixteen, noise)
    found = with_staircases(Widths(), groups, model).staircases
    assert {name: [*map(int, stairs.units)] for name, stairs in found.items()} == {
        name: [*range(16, size + 1, 16)] for name, size in SIZES.items()
    }


def test_a_multiple_a_floor_and_a_floor_ratio_still_hold() -> None:
    groups, model = timed(float)
    widths = with_staircases(Widths(multiple=12, floor=24, floor_ratio=0.5), groups, model)
    found = {name: [*map(int, stairs.units)] for name, stairs in widths.staircases.items()}
    assert found == {"conv1": [24, 32], "conv2": [24, 36, 48], "conv3": [36, 48, 60, 64]}


def test_a_device_that_gains_nothing_keeps_all() -> None:
    groups, model = timed(lambda _: 1.0)
    found = with_staircases(Widths(), groups, model).staircases
    assert {name: [*stairs.units] for name, stairs in found.items()} == {
        name: [size] for name, size in SIZES.items()
    }
    with pytest.raises(StageError, match=r"at most 0\.500 of the dense network's time asked, but"):
        largest_counts_within(
            Limits(time=0.5),
            Uniform(),
            candidates_of(Three(), groups, model, *scores_and_errors(groups)),
            model,
            Widths(staircases=found),
        )


def scores_and_errors(
    groups: tuple[Group, ...], seed: int = 0
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    generator = np.random.default_rng(seed)
    steep = {group.name: generator.uniform(0.3, 3) for group in groups}
    scores = {group.name: generator.exponential(size=group.size) for group in groups}
    errors = {g.name: (1 - np.arange(g.size + 1) / g.size) ** steep[g.name] for g in groups}
    return scores, errors


@pytest.mark.parametrize("limit", [0.8, 0.6, 0.4, 0.25])
def test_the_network_within_a_time_is_nearly_as_good_as_the_best_of_all(limit: float) -> None:
    """Beside every combination of widths: the error that is left, in 20 cases."""
    groups, model = timed(by_sixteen)
    widths = with_staircases(Widths(), groups, model)
    costs, allocator = model.over(groups), Reconstruction()
    weights = np.geomspace(1, allocator.late_weight, len(groups))
    found, best = [], []
    for seed in range(20):
        scores, errors = scores_and_errors(groups, seed)
        candidates = candidates_of(Three(), groups, model, scores, errors, widths)

        def error(counts: dict[str, int], errors: dict[str, Float64] = errors) -> float:
            parts = zip(weights, groups, strict=True)
            return float(sum(w * errors[g.name][counts[g.name]] for w, g in parts))

        counts = largest_counts_within(Limits(time=limit), allocator, candidates, model, widths)
        assert costs.at(counts).time <= limit
        found.append(error(counts))
        units = [widths.staircases[group.name].units for group in groups]
        all_of = [dict(zip(SIZES, map(int, at), strict=True)) for at in itertools.product(*units)]
        best.append(min(error(at) for at in all_of if costs.at(at).time <= limit))
        assert found[-1] <= 1.03 * best[-1]
    assert np.mean(found) <= 1.005 * np.mean(best)
