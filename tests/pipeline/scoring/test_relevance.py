"""Relevance: the z+ rule by hand, and what it conserves."""

import numpy as np
import pytest
import torch
from networks import Chain, Depthwise, Residual, trained
from random_samples import Samples, feeds, stats_of
from torch import nn

from pipeline.network.groups import find_groups
from pipeline.scoring.collect import collect
from pipeline.scoring.relevance import Relevance
from pipeline.task import cross_entropy
from profiles.errors import ConfigError, StageError


@pytest.mark.parametrize("kind", [Chain, Residual, Depthwise])
def test_relevance_is_conserved_where_one_layer_reads_everything(kind: type[nn.Module]) -> None:
    """Above 0 everywhere, R of the last layer's inputs sums up to the logit's 1."""
    network = trained(kind)
    nn.init.uniform_(network.get_submodule("fc").get_parameter("weight"), 0.1, 1)
    _, stats = stats_of(network, needs=frozenset({"relevance"}))
    last = "fc" if kind is not Depthwise else "project"
    assert stats[last].relevance.sum() == pytest.approx(1, rel=1e-3)
    if kind is Chain:
        assert stats["conv2"].relevance.sum() == pytest.approx(1, rel=1e-3)


def test_relevance_follows_the_z_plus_rule_by_hand() -> None:
    first, last = nn.Linear(3, 2), nn.Linear(2, 2)
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2, -1], [1, -1, 3]]))
        first.bias.fill_(0.5)
        last.weight.copy_(torch.tensor([[2.0, 1], [-1, 1]]))
        last.bias.zero_()
    found = Relevance(network.eval(), ["1", "3"], {})
    found.add(torch.tensor([[1.0, 1, 1]]), np.array([0]))
    # Hidden 2.5 and 3.5; R = [5, 3.5] / 8.5. Inputs by [1, 2, 0] / 3 and [1, 0, 3] / 4.
    top = np.array([5, 3.5]) / 8.5
    np.testing.assert_allclose(found.total("3"), top, rtol=1e-6)
    below = top[0] * np.array([1, 2, 0]) / 3 + top[1] * np.array([1, 0, 3]) / 4
    np.testing.assert_allclose(found.total("1"), below, rtol=1e-6)


def test_relevance_needs_class_labels() -> None:
    network = trained(Chain)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    feed = [(np.zeros((2, 3, 8, 8), np.float32), np.zeros((2, 4), np.float32))]
    with pytest.raises(ConfigError, match="lrp needs class labels"):
        collect(network, groups, feed, cross_entropy, frozenset({"relevance"}))


def test_a_layer_that_no_relevance_reaches_is_a_clear_error() -> None:
    network = trained(Chain)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    network.get_submodule("conv2").register_forward_pre_hook(lambda _, args: args[0].detach())
    with pytest.raises(StageError, match="conv1: no relevance reaches this layer"):
        collect(network, groups, feeds(Samples()), cross_entropy, frozenset({"relevance"}))
