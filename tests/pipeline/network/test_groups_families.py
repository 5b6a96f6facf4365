"""Families of networks whose channels are shuffled, normed or cut into windows on their way."""

import numpy as np
import pytest
import torch
from networks import trained
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ShuffleNetV2, SwinTransformer

from pipeline.network.groups import fault, find_groups, make_plan
from profiles.errors import StageError

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Shuffling(nn.Module):
    """A small ShuffleNet: the blocks of a stage shuffle its channels, in two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ShuffleNetV2([4, 1, 1], [8, 8, 16, 16, 12], num_classes=4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class NormedStream(nn.Module):
    """Blocks of ConvNeXt: a residual stream through LayerNorm, with wide layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 20)
        self.down = nn.Linear(20, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.7))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(functional.gelu(self.up(y))).permute(0, 3, 1, 2)
        x = x + self.scale * y
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


STREAMS = {f"net.stage{stage}.0.branch1.2" for stage in (3, 4)}
BRANCHES = {f"net.stage{place}.branch2.0" for place in ("2.0", "2.1", "2.2", "2.3", "3.0", "4.0")}


@pytest.mark.parametrize(
    ("kind", "good"),
    [(Shuffling, {"net.conv1.0", *BRANCHES, *STREAMS, "net.conv5.0"}), (NormedStream, {"up"})],
)
def test_what_lies_within_and_around_an_obstacle_is_pruned_and_is_the_same(
    kind: type[nn.Module], good: set[str]
) -> None:
    network = trained(kind)
    found = find_groups(network, EXAMPLE)
    assert {group.name for group in found.groups} == good
    kept = {group.name: np.arange(0, group.size, 2) for group in found.groups}
    assert fault(network, make_plan(network, found.groups, kept), EXAMPLE) == ""


def test_what_is_shuffled_until_all_channels_hang_together_is_refused_with_its_reason() -> None:
    """Four shuffles of 8 channels leave none that goes alone."""
    refused = find_groups(trained(Shuffling), EXAMPLE).refused
    assert refused == {
        "net.stage2.0.branch1.2": "all its channels are one unit",
        "net.fc": "its channels are the network's output",
    }


def test_tracing_leaves_neither_hooks_nor_changes_behind() -> None:
    network = trained(Shuffling)
    with torch.no_grad():
        before = network(EXAMPLE)
        find_groups(network, EXAMPLE)
        assert torch.equal(network(EXAMPLE), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_that_cannot_run_says_why() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no input like this")

    with pytest.raises(StageError, match="cannot be traced: no input like this"):
        find_groups(trained(Broken), EXAMPLE)


def test_a_network_that_cuts_windows_out_and_puts_them_back_is_followed_to_an_end() -> None:
    torch.manual_seed(0)
    swin = SwinTransformer([4, 4], 24, [2, 1], [2, 3], [4, 4], num_classes=7).eval()
    found = find_groups(swin, EXAMPLE)
    blocks = ("1.0", "1.1", "3.0")
    assert [group.name for group in found.groups] == [f"features.{b}.mlp.0" for b in blocks]
    assert "head" in found.refused
