"""Layers whose weights are computed are named before any work, with the call that helps."""

import warnings
from collections.abc import Callable

import pytest
import torch
from half_pruned import images
from networks import Chain, trained
from torch import nn
from torch.nn.utils import (
    parametrizations,
    prune,  # noqa: TID251, to be refused
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)
from torch.nn.utils.parametrize import remove_parametrizations

from pipeline import api
from pipeline.network.computed_weights import refuse_computed_weights
from pipeline.prune.prunable import find_prunable
from profiles.errors import StageError

Change = Callable[[nn.Module], object]


def weight_as_buffer(layer: nn.Module) -> None:
    weight = layer.get_parameter("weight").data
    del layer.weight
    layer.register_buffer("weight", weight)


def weight_as_parameter(layer: nn.Module) -> None:
    weight = layer.get_buffer("weight")
    del layer.weight
    layer.weight = nn.Parameter(weight)


def older_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(layer)


CASES: dict[str, tuple[Change, str, Change]] = {
    "weight norm": (
        parametrizations.weight_norm,
        'parametrize.remove_parametrizations(layer, "weight")',
        lambda layer: remove_parametrizations(layer, "weight"),
    ),
    "spectral norm": (
        parametrizations.spectral_norm,
        'parametrize.remove_parametrizations(layer, "weight")',
        lambda layer: remove_parametrizations(layer, "weight"),
    ),
    "mask of the weight": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        'prune.remove(layer, "weight")',
        lambda layer: prune.remove(layer, "weight"),
    ),
    "mask of the bias": (
        lambda layer: prune.l1_unstructured(layer, "bias", 0.3),
        'prune.remove(layer, "bias")',
        lambda layer: prune.remove(layer, "bias"),
    ),
    "older weight norm": (
        older_weight_norm,
        'remove_weight_norm(layer, "weight")',
        remove_weight_norm,
    ),
    "older spectral norm": (
        spectral_norm,
        'remove_spectral_norm(layer, "weight")',
        remove_spectral_norm,
    ),
    "buffer": (weight_as_buffer, "its weight is no nn.Parameter", weight_as_parameter),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_with_computed_weights_is_named_with_the_call_that_helps(name: str) -> None:
    change, call, restore = CASES[name]
    network = trained(Chain)
    layer = network.get_submodule("conv2")
    change(layer)
    batches = [(images(40), torch.arange(40) % 4)]
    for attempt in (
        lambda: api.prune(network, batches, 0.5),
        lambda: find_prunable(network, images(1)),
    ):
        with pytest.raises(StageError) as caught:
            attempt()
        assert "conv2: its " in str(caught.value)
        assert call in str(caught.value)
        assert "conv1" not in str(caught.value)
    restore(layer)
    assert api.prune(network, batches, 0.5).macs_ratio <= 0.5


def test_every_layer_with_computed_weights_is_named_at_once() -> None:
    network = trained(Chain)
    parametrizations.weight_norm(network.get_submodule("conv1"))
    prune.l1_unstructured(network.get_submodule("fc"), "weight", 0.3)
    with pytest.raises(
        StageError, match=r"conv1: .*remove_parametrizations.*; fc: .*prune\.remove"
    ):
        refuse_computed_weights(network)


def test_a_parametrization_of_a_layer_that_is_never_sliced_is_let_be() -> None:
    norm = nn.LayerNorm(4)
    parametrizations.weight_norm(norm)
    refuse_computed_weights(nn.Sequential(nn.Linear(4, 4), norm))
