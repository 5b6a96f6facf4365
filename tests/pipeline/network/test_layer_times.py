"""The time of a network from times of its layers alone, by hand."""

from dataclasses import replace

import pytest
import torch
from networks import Chain, trained
from torch import nn

from pipeline.network.costs import MacsModel, macs_model
from pipeline.network.groups import Group, find_groups
from pipeline.network.layer_shapes import layer_shapes
from pipeline.network.layer_times import Curve, LayerTime, NetworkTimes, timed_widths

EXAMPLE = torch.zeros(1, 3, 8, 8)


def line(channels: int) -> Curve:
    """A time that goes with the channels."""
    widths = tuple(range(1, channels + 1))
    return Curve(channels=widths, parts=tuple(one / channels for one in widths))


def timed(*times: NetworkTimes) -> tuple[tuple[Group, ...], MacsModel]:
    network = trained(Chain)
    model = macs_model(network, EXAMPLE)
    return find_groups(network, EXAMPLE).groups, replace(model, times=times)


def chain(**ms: float) -> NetworkTimes:
    """conv1 3 -> 8, conv2 8 -> 6, fc 6 -> 4."""
    widths = {"conv1": (8, 3), "conv2": (6, 8), "fc": (4, 6)}
    layers: dict[str, tuple[LayerTime, ...]] = {
        name: (LayerTime(ms=one, outputs=line(widths[name][0]), inputs=line(widths[name][1])),)
        for name, one in ms.items()
    }
    return NetworkTimes(layers=layers)


def test_a_layer_takes_the_product_of_what_both_its_sides_leave() -> None:
    groups, model = timed(chain(conv1=1, conv2=6, fc=1))
    costs = model.over(groups)
    assert costs.at({"conv1": 8, "conv2": 6}).time == pytest.approx(1)
    # conv1 half; conv2 half of its inputs and a third of its outputs; fc a third of its inputs
    assert costs.at({"conv1": 4, "conv2": 2}).time == pytest.approx((0.5 + 6 / 6 + 1 / 3) / 8)


def test_the_slowest_device_to_gain_decides() -> None:
    first, second = chain(conv1=1), chain(conv2=1)
    groups, model = timed(first, second)
    assert model.over(groups).at({"conv1": 8, "conv2": 3}).time == 1
    assert model.over(groups).at({"conv1": 4, "conv2": 3}).time == 0.5


def test_a_layer_that_runs_twice_counts_twice_and_one_that_is_gone_not_at_all() -> None:
    once = chain(conv1=1, fc=1).layers
    twice = NetworkTimes(layers={**once, "fc": once["fc"] * 2, "gone": once["fc"]})
    groups, model = timed(twice)
    assert model.over(groups).at({"conv1": 8, "conv2": 3}).time == pytest.approx(2 / 3)


def test_between_two_widths_time_is_straight() -> None:
    curve = Curve(channels=(4, 8), parts=(0.5, 1))
    assert curve.table().tolist() == [0.5] * 5 + [0.625, 0.75, 0.875, 1]


@pytest.mark.parametrize(
    ("channels", "groups", "widths"),
    [
        (3, 1, (1, 2, 3)),
        (10, 1, (4, 8, 10)),
        (16, 1, (4, 8, 12, 16)),
        (20, 2, (8, 16, 20)),
    ],
)
def test_the_widths_that_are_timed(channels: int, groups: int, widths: tuple[int, ...]) -> None:
    assert timed_widths(channels, groups) == widths


@pytest.mark.parametrize("channels", [128, 160, 512, 1280, 4096])
def test_no_side_has_many_widths_and_the_last_is_all(channels: int) -> None:
    widths = timed_widths(channels, 1)
    assert 16 <= len(widths) <= 33
    assert widths[-1] == channels


def test_shapes_are_found_each_time_that_a_layer_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.norm(self.conv(self.conv(x)))
            return found

    shapes = layer_shapes(Twice().eval(), EXAMPLE)
    assert {name: [one.positions for one in runs] for name, runs in shapes.items()} == {
        "conv": [(8, 8), (4, 4)]
    }


def test_what_runs_along_the_first_axis_is_counted() -> None:
    """Tokens first, [tokens, samples, channels], and windows folded into the samples."""

    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(3, 5)
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows = x.reshape(4, 3, 4, 4)
            tokens: torch.Tensor = self.up(x.flatten(2).permute(2, 0, 1))
            pixels: torch.Tensor = self.conv(windows)
            return tokens.mean(0) + pixels.mean()

    network = TokensFirst().eval()
    shapes = layer_shapes(network, EXAMPLE)
    assert (shapes["up"][0].repeats, shapes["up"][0].positions) == (64, (1,))
    assert (shapes["conv"][0].repeats, shapes["conv"][0].positions) == (4, (4, 4))
    counted = macs_model(network, EXAMPLE).total((), {})
    assert sum(one.macs() for runs in shapes.values() for one in runs) == counted
