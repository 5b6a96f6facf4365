"""Convolutions whose class does more in its own `forward` than its attributes tell."""

import numpy as np
import pytest
import torch
from half_pruned import HELD, distance, half, images, same, state_of
from networks import trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.output_sites import find_sites
from pipeline.network.groups import find_groups, make_plan
from pipeline.network.layer_kinds import Padding
from pipeline.network.plan import PruningPlan, apply_plan
from pipeline.network.spool import Memory
from pipeline.repair.dense_targets import dense_targets
from pipeline.repair.resolve_layers import resolve_layers

ROWS = 10**6


class SameConv2d(nn.Conv2d):
    """Pads by the size of its input, more behind than before, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        widths = [0, 0, 0, 0]
        for axis in (0, 1):
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            widths[2 - 2 * axis], widths[3 - 2 * axis] = total // 2, total - total // 2
        x = functional.pad(x, widths)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class PaddedBefore(nn.Conv2d):
    """Pads one row and one column and leaves the rest to torch's class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (0, 1, 1, 0), mode="replicate"))


class OwnForward(nn.Module):
    """A stem, an inverted residual block and a head of one class of convolutions."""

    def __init__(self, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        self.stem, self.bn = conv(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.expand = conv(8, 12, 1)
        self.depthwise = conv(12, 12, 3, groups=12)
        self.project = conv(12, 8, 2, stride=2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        y = functional.relu(self.depthwise(functional.relu(self.expand(x))))
        y = self.project(y)
        x = functional.relu(y + functional.adaptive_avg_pool2d(x, y.shape[2]))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Same(OwnForward):
    def __init__(self) -> None:
        super().__init__(SameConv2d)


class Before(OwnForward):
    def __init__(self) -> None:
        super().__init__(PaddedBefore)


KINDS = (Same, Before)


@pytest.mark.parametrize("steps", [0, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_pad_themselves_are_repaired(kind: type[nn.Module], steps: int) -> None:
    dense, plan = trained(kind), half(trained(kind))
    small = apply_plan(dense, plan)
    was = distance(small, dense, images(HELD, 1))
    remarks = resolve_layers(
        small, plan, dense_targets(dense, images(), 200, ROWS, Memory()), steps
    )
    assert not remarks
    assert distance(small, dense, images(HELD, 1)) < 0.5 * was


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_pad_themselves_stay_what_they_are_where_nothing_was_lost(
    kind: type[nn.Module],
) -> None:
    dense, small = trained(kind), trained(kind)
    targets = dense_targets(dense, images(), 200, ROWS, Memory())
    resolve_layers(small, PruningPlan(layers={}), targets, 20)
    assert distance(small, dense, images(HELD, 1)) < 1e-4


def test_the_dense_answer_comes_back_where_the_lost_channels_were_copies_of_the_others() -> None:
    dense = trained(Same)
    with torch.no_grad():
        for name in ("expand", "depthwise"):
            for value in dense.get_submodule(name).parameters():
                value[6:] = value[:6]
    (group,) = (one for one in find_groups(dense, images(2)).groups if one.name == "expand")
    plan = make_plan(dense, [group], {"expand": np.arange(6)})
    small = apply_plan(dense, plan)
    assert distance(small, dense, images(HELD, 1)) > 0.01
    resolve_layers(small, plan, dense_targets(dense, images(), 200, ROWS, Memory()), 0)
    assert distance(small, dense, images(HELD, 1)) < 1e-4


def test_what_a_layer_pads_in_its_own_forward_is_in_its_site() -> None:
    sites = find_sites(trained(Same), images(1))
    assert sites["stem"].padding == Padding((0, 1, 0, 1))
    assert sites["expand"].padding == Padding((0, 0, 0, 0))
    assert sites["depthwise"].padding == Padding((1, 1, 1, 1))
    before = find_sites(trained(Before), images(1))["stem"]
    assert before.padding == Padding((0, 1, 1, 0), "replicate")


class NormedConv2d(nn.Conv2d):
    """Norms its filters at every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        return functional.conv2d(x, weight, self.bias, self.stride, 1)


class Manual(nn.Conv2d):
    """Pads by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x[:, :, :1]], 2))


@pytest.mark.parametrize("conv", [NormedConv2d, Manual])
def test_a_layer_that_computes_more_than_its_weights_say_is_left_alone_with_a_remark(
    conv: type[nn.Conv2d],
) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), conv(8, 4, 3, stride=2), nn.Flatten()
    ).eval()
    plan = half(dense)
    small = apply_plan(dense, plan)
    before = state_of(small.get_submodule("2"))
    remarks = resolve_layers(small, plan, dense_targets(dense, images(), 200, ROWS, Memory()), 0)
    assert remarks == (
        "2: it runs more than once, or computes more than its weights and padding say; the "
        "layer is as it was",
    )
    assert same(before, small.get_submodule("2"))
