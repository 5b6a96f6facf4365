"""Small networks of which every second unit is gone, and how far they are from what they were."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.groups import find_groups, make_plan
from pipeline.network.plan import PruningPlan
from pipeline.network.spool import Between, Samples

COUNT, FITTED, HELD = 240, 200, 60


def images(count: int = COUNT, seed: int = 0, size: int = 8) -> Tensor:
    """Smooth random images: neighbouring pixels are alike, as in photographs."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return noise + functional.avg_pool2d(noise, 3, 1, 1) * 2


def walk_in_parts_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the samples that second moments come from into parts of `size`."""

    def parts_of(_: nn.Module, inputs: Samples) -> list[Between]:
        count = len(inputs)
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    monkeypatch.setattr("pipeline.scoring.second_moments.parts_of", parts_of)


def half(network: nn.Module) -> PruningPlan:
    """A plan that removes every second unit of every group."""
    groups = find_groups(network, images(1)).groups
    units = {group.name: np.arange(0, group.size, 2) for group in groups}
    return make_plan(network, groups, units)


def distance(network: nn.Module, dense: nn.Module, inputs: Tensor) -> float:
    """The squared difference of outputs relative to their variance."""
    with torch.no_grad():
        found, wanted = network(inputs), dense(inputs)
    return float((found - wanted).square().mean() / wanted.var(0).mean())


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(state: dict[str, Tensor], network: nn.Module) -> bool:
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
