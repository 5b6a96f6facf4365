"""Statistics of networks and data that have none: every error names its layer."""

import pytest
import torch
from networks import Chain, Residual, trained
from random_samples import ALL, Samples, feeds, stats_of
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.groups import find_groups
from pipeline.scoring.collect import Need, collect
from pipeline.task import cross_entropy
from profiles.errors import ConfigError, StageError


class Overwritten(nn.Module):
    """A layer without batch norm whose output is overwritten through a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.view(-1).relu_()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_an_output_overwritten_through_a_view_is_a_clear_error() -> None:
    torch.manual_seed(0)
    with pytest.raises(StageError, match="conv: its output is overwritten in place through a view"):
        stats_of(Overwritten().eval())


def test_numbers_that_are_not_finite_name_their_layer() -> None:
    network = trained(Residual)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    nn.init.constant_(network.get_parameter("inner.1.weight"), float("nan"))
    needs: tuple[Need, ...] = ("activations", "gradients", "relevance")
    for need in needs:
        with pytest.raises(StageError, match=r"inner\.1: its (output|activations)"):
            collect(network, groups, feeds(Samples()), cross_entropy, frozenset({need}))


class Detached(nn.Module):
    """A layer that the loss cannot see through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.detach = False

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = self.conv2(x.detach() if self.detach else x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_layer_that_the_loss_does_not_depend_on_is_a_clear_error() -> None:
    network = Detached().eval()
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    network.detach = True
    with pytest.raises(StageError, match="conv1: the loss of the calibration samples does not"):
        collect(network, groups, feeds(Samples()), cross_entropy, frozenset({"gradients"}))


class Steep(nn.Module):
    """A finite value of an infinite slope: the square root at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv2(self.conv1(x))).sqrt()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_gradient_that_is_not_finite_names_its_layer() -> None:
    torch.manual_seed(0)
    with pytest.raises(StageError, match="conv2: its gradients are not finite"):
        stats_of(Steep().eval(), needs=frozenset({"gradients"}))


def test_a_label_beyond_the_outputs_is_a_clear_error() -> None:
    network = trained(Chain)
    data = Samples()
    data.targets[5] = 4
    with pytest.raises(ConfigError, match="label 4 is out of range: the network has 4 outputs"):
        stats_of(network, data)


def test_no_samples_and_a_loss_of_nan_are_clear_errors() -> None:
    network = trained(Chain)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    with pytest.raises(StageError, match="no calibration samples"):
        collect(network, groups, iter(()), cross_entropy, ALL)
    nn.init.constant_(network.get_parameter("fc.weight"), float("nan"))
    with pytest.raises(StageError, match=r"fc: its output is not finite.*the loss is nan"):
        collect(network, groups, feeds(Samples()), cross_entropy, ALL)
