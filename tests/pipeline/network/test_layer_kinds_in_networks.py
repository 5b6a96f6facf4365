"""Networks with norms of every kind in the table: pruned, run, trained and counted."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.network.costs import macs_model
from pipeline.network.groups import fault, find_groups, make_plan
from pipeline.network.plan import apply_plan


class Normed(nn.Module):
    """A residual stream of 12 channels and an inner layer of 8, both normed by `norm`."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 12, 3, padding=1), norm(12)
        self.inner, self.inner_norm = nn.Conv2d(12, 8, 3, padding=1), norm(8)
        self.outer, self.outer_norm = nn.Conv2d(8, 12, 3, padding=1), norm(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        y = self.inner_norm(self.inner(x)).relu()
        x = (x + self.outer_norm(self.outer(y))).relu()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def uneven(norm: Callable[[int], nn.Module]) -> nn.Module:
    """The network in eval mode, with scales and shifts that differ from channel to channel."""
    torch.manual_seed(0)
    network = Normed(norm)
    for value in network.parameters():
        if value.dim() == 1:
            nn.init.uniform_(value, 0.5, 2.0)
    return network.eval()


NORMS: Mapping[str, tuple[Callable[[int], nn.Module], dict[str, int]]] = {
    "group": (lambda n: nn.GroupNorm(4, n), {"stem": 4, "inner": 4}),
    "group, one a channel": (lambda n: nn.GroupNorm(n, n), {"stem": 12, "inner": 8}),
    "instance": (nn.InstanceNorm2d, {"stem": 12, "inner": 8}),
    "instance, affine": (lambda n: nn.InstanceNorm2d(n, affine=True), {"stem": 12, "inner": 8}),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_network_with_these_norms_is_pruned_trains_and_removing_is_silencing(name: str) -> None:
    make, sizes = NORMS[name]
    network = uneven(make)
    example = torch.randn(2, 3, 8, 8)
    groups = find_groups(network, example).groups
    assert {group.name: group.size for group in groups} == sizes
    for keep in range(min(sizes.values())):
        plan = make_plan(network, groups, {g.name: np.array([keep]) for g in groups})
        assert fault(network, plan, example) == ""
    small = apply_plan(network, plan).train()
    small(example).square().sum().backward()
    assert all(value.grad is not None for value in small.parameters())
    model = macs_model(network, example[:1])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small(example[:1])
    counts = dict.fromkeys(sizes, 1)
    assert model.total(groups, counts) == counter.get_total_flops() // 2
    assert model.parameters(groups, counts) == sum(v.numel() for v in small.parameters())


def test_one_norm_group_over_all_channels_leaves_nothing_to_remove() -> None:
    network = uneven(lambda n: nn.GroupNorm(1, n))
    assert find_groups(network, torch.randn(2, 3, 8, 8)).groups == ()


class Across(nn.Module):
    """Two branches of 6 channels side by side, the middle one of 3 norm groups in both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.norm = nn.GroupNorm(3, 12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_norm_group_across_two_layers_keeps_both_from_being_pruned() -> None:
    torch.manual_seed(0)
    found = find_groups(Across().eval(), torch.randn(2, 3, 8, 8))
    assert found.groups == ()
    assert found.refused["left"] == "its units have different numbers of channels in left"
