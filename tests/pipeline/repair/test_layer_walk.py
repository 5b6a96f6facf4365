"""Results do not depend on how much is held in memory, nor on where a walk can go on from."""

import numpy as np
import pytest
import torch
from half_pruned import half, images, same, state_of
from networks import NETWORKS, Fork, PreActivation, Residual, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.output_sites import find_sites
from pipeline.network import walks
from pipeline.network.calibration import Calibration
from pipeline.network.plan import apply_plan
from pipeline.network.spool import Memory
from pipeline.repair import layer_walk
from pipeline.repair.layer_walk import LayerWalk, Step, checkpoint_layers
from pipeline.repair.recoveries.least_squares import LeastSquares
from profiles.errors import StageError

NONE, PLENTY = 0, 2**40


def repaired(kind: type[nn.Module], most_bytes: float) -> nn.Module:
    dense = trained(kind)
    plan, count = half(dense), 120
    small = apply_plan(dense, plan)
    samples = Calibration(images(count), np.arange(count) % 4, 20, Memory(most_bytes))
    LeastSquares(steps=10).recover(small, dense, plan, samples)
    return small


KINDS = [*NETWORKS, Fork, PreActivation]


@pytest.mark.parametrize("kind", KINDS)
def test_less_memory_gives_the_same_bytes(kind: type[nn.Module]) -> None:
    assert same(state_of(repaired(kind, PLENTY)), repaired(kind, NONE))


@pytest.mark.parametrize("kind", KINDS)
def test_how_often_a_walk_has_a_checkpoint_changes_no_result(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = state_of(repaired(kind, PLENTY))  # one at each layer
    for most in (1, 1000):
        monkeypatch.setattr(layer_walk, "MOST_REPLAYED", most)
        assert same(found, repaired(kind, NONE))


def test_free_memory_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = trained(Residual)
    plan, kept = half(dense), []
    for free in (2**40, 2**10):
        monkeypatch.setattr("pipeline.network.spool.available_memory", lambda free=free: free)
        small = apply_plan(dense, plan)
        samples = Calibration(images(60), np.arange(60) % 4, 10)
        assert LeastSquares(steps=10).recover(small, dense, plan, samples) == ()
        kept.append(small)
    assert same(state_of(kept[0]), kept[1])


def test_a_checkpoint_is_the_smallest_of_a_few_and_never_where_a_layer_is_still_to_be_solved() -> (
    None
):
    sizes = [9, 5, 7, 3, 3, 8, 1, 0]
    steps = [Step(str(place), place != 7, size) for place, size in enumerate(sizes)]
    assert checkpoint_layers(steps, 4) == {"4", "6"}
    assert checkpoint_layers(steps[:1], 4) == set()
    far = [Step(str(place), place in (0, 8), 1) for place in range(10)]
    assert checkpoint_layers(far, 4) == {"8"}


def test_samples_that_take_another_way_through_the_network_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = functional.relu(self.first(x))
            if bool((x > 99).all()):
                return y[:, :4].mean((2, 3))
            logits: Tensor = self.second(y).mean((2, 3))
            return logits

    monkeypatch.setattr(walks, "MOST_SAMPLES", 25)
    network, inputs = trained(Ways), images(60)
    inputs[50:] = 100
    sites = find_sites(network, inputs)
    walk = LayerWalk(network, sites, {}, inputs, Memory())
    with pytest.raises(StageError, match="second: not every calibration sample reaches this"):
        walk.gather("second", torch.zeros(60, 1, dtype=torch.long))


def test_batches_depend_on_the_network_and_its_input_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = trained(Residual)
    many = torch.empty(1, 3, 12, 12).expand(600, -1, -1, -1)
    assert walks.parts_of(network, many) == [slice(0, 250), slice(250, 500), slice(500, 600)]
    large = torch.empty(1, 3, 512, 512).expand(60, -1, -1, -1)  # of 8 channels: 8 MiB a sample
    monkeypatch.setattr(walks, "LARGEST_BYTES", 2**26)
    assert [part.stop for part in walks.parts_of(network, large)] == [8, 16, 24, 32, 40, 48, 56, 60]
