"""Residual blocks: which ones the identity can replace, and how much each of them changes."""

import copy

import numpy as np
import pytest
import torch
from networks import Chain, trained
from random_samples import SAMPLES, Samples, feeds
from torch import Tensor, nn
from torch.nn import functional

from pipeline.scoring.residual_blocks import block_scores, residual_blocks
from profiles.errors import StageError


class Block(nn.Module):
    """x + strength * conv(relu(x)), in several ways to write it."""

    def __init__(self, strength: float, way: str = "plain", outputs: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, outputs, 3, padding=1)
        self.shortcut = nn.Sequential()
        self.strength, self.way = strength, way

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.strength * self.conv(functional.relu(x))
        if self.way == "in place":
            y += self.shortcut(x)
            return y
        if self.way == "on the input":
            return x.add_(y)
        if self.way == "none":
            return y
        return torch.add(x, y) if self.way == "function" else x + y


class Wrapped(nn.Module):
    """A stage of two blocks, and so with the first one's input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(0.5, "function"), Block(1.0, "in place")

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(self.first(x))
        return inner


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.body = nn.Sequential(Block(0.01), Wrapped(), Block(4.0, "on the input"))
        self.same_shape = Block(1.0, "none")
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same_shape(self.body(self.stem(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def blocks() -> nn.Module:
    torch.manual_seed(0)
    return Blocks().eval()


def test_a_block_adds_to_its_own_input_and_only_the_innermost_counts() -> None:
    found = residual_blocks(blocks(), torch.zeros(1, 3, 8, 8))
    assert found == ["body.0", "body.1.first", "body.1.second", "body.2"]


def test_a_network_without_residual_modules_has_no_blocks() -> None:
    assert block_scores(trained(Chain), feeds(Samples())) == {}


def test_scores_are_cosines_and_a_block_that_does_little_is_lowest() -> None:
    network = blocks()
    before = copy.deepcopy(network.state_dict())
    scores = block_scores(network, feeds(Samples(), 7))
    assert scores["body.0"] == pytest.approx(-1, abs=1e-3)
    assert min(scores, key=lambda name: scores[name]) == "body.0"
    assert max(scores, key=lambda name: scores[name]) == "body.2"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    inputs, _ = next(feeds(Samples(), SAMPLES))
    with torch.no_grad():
        x = network.get_submodule("body.0")(network.get_submodule("stem")(torch.from_numpy(inputs)))
        y = network.get_submodule("body.1.first")(x)
    x, y = (value.flatten(1).numpy() for value in (x, y))
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert scores["body.1.first"] == pytest.approx(-cosines.mean(), rel=1e-4)


def test_no_samples_and_numbers_that_are_not_finite_are_clear_errors() -> None:
    network = blocks()
    with pytest.raises(StageError, match="no calibration samples"):
        block_scores(network, iter(()))
    nn.init.constant_(network.get_parameter("body.1.first.conv.bias"), float("nan"))
    with pytest.raises(StageError, match=r"body\.1\.first: its input or output is not finite"):
        block_scores(network, feeds(Samples()))
