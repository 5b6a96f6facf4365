"""ConvNeXt V2's response norm: a removed channel counts as zero in the mean over channels."""

import numpy as np
import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.groups import fault, find_groups, make_plan
from pipeline.network.plan import apply_plan, compose

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class GRN(nn.Module):
    """As the paper's authors wrote it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        y: Tensor = (
            self.gamma * (x * norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)) + self.beta + x
        )
        return y


class Block(nn.Module):
    """up - GELU - norm - down, channels last."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.fc = nn.Linear(3, 12), nn.Linear(12, 5), nn.Linear(5, 4)
        self.norm = norm(12)
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.norm(functional.gelu(self.up(x.movedim(1, -1)))))
        logits: Tensor = self.fc(functional.relu(x).mean((1, 2)))
        return logits


@pytest.mark.parametrize("norm", [GRN, GlobalResponseNorm])
def test_the_layer_before_a_response_norm_is_pruned_and_is_the_same_as_with_zeros(
    norm: type[nn.Module],
) -> None:
    network = Block(norm).eval()
    groups = find_groups(network, EXAMPLE).groups
    assert [(group.name, group.size) for group in groups] == [("up", 12), ("down", 5)]
    kept = {"up": np.array([1, 4, 11]), "down": np.arange(5)}
    plan = make_plan(network, groups, kept)
    assert fault(network, plan, EXAMPLE) == ""
    wanted = Block(norm).eval()
    with torch.no_grad():
        gone = [i for i in range(12) if i not in (1, 4, 11)]
        wanted.up.weight[gone], wanted.up.bias[gone], wanted.down.weight[:, gone] = 0, 0, 0
        found, answer = apply_plan(network, plan)(EXAMPLE), wanted(EXAMPLE)
    torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-5)


def test_two_steps_are_the_same_as_both_at_once() -> None:
    network = Block(GlobalResponseNorm).eval()
    first_groups = find_groups(network, EXAMPLE).groups
    first = make_plan(network, first_groups, {"up": np.arange(8), "down": np.arange(5)})
    between = apply_plan(network, first)
    second = make_plan(
        between, find_groups(between, EXAMPLE).groups, {"up": np.arange(3), "down": np.arange(5)}
    )
    with torch.no_grad():
        found = apply_plan(between, second)(EXAMPLE)
        wanted = apply_plan(network, compose(first, second))(EXAMPLE)
    torch.testing.assert_close(found, wanted)
