"""Channels followed through chunks, shuffles, gates and reshapes; every group by hand."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from networks import trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.groups import Groups, fault, find_groups, make_plan

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Between(nn.Module):
    """first - something - second - the mean - fc."""

    def __init__(self, between: Callable[[Tensor], Tensor], inputs: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(inputs, 6, 1)
        self.fc, self.between = nn.Linear(6, 4), between

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(self.between(self.first(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def groups_of(network: nn.Module) -> Groups:
    torch.manual_seed(0)
    found = find_groups(network.eval(), EXAMPLE)
    generator = np.random.default_rng(3)
    for _ in range(3):
        kept = {
            group.name: generator.permutation(group.size)[: 1 + generator.integers(group.size)]
            for group in found.groups
        }
        assert fault(network, make_plan(network, found.groups, kept), EXAMPLE) == ""
    return found


def of_first(between: Callable[[Tensor], Tensor], inputs: int = 8) -> tuple[int, str]:
    """The number of units of the group of `first`, 0 when refused; and why."""
    torch.manual_seed(0)
    found = groups_of(Between(between, inputs))
    sizes = {group.name: group.size for group in found.groups}
    assert sizes["second"] == 6
    return sizes.get("first", 0), found.refused.get("first", "")


def chunk_gate(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return left * right.sigmoid()


def swapped(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return torch.cat([right, left], 1)


def shuffled(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


def windows(x: Tensor) -> Tensor:
    """Cut into windows of 4 x 4, and put back together."""
    n, c, h, w = x.shape
    parts = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    parts = functional.gelu(parts) * parts.softmax(1)
    return parts.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def written(x: Tensor) -> Tensor:
    whole = torch.empty_like(x)
    whole.copy_(x)
    return whole.relu_().mul_(2)


FREE: Mapping[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "a gate of two halves": (chunk_gate, 4, 4),
    "glu": (lambda x: functional.glu(x, 1), 4, 4),
    "halves that change places": (swapped, 8, 4),
    "a shuffle of two groups": (shuffled, 8, 4),
    "slices put together again": (lambda x: torch.cat([x[:, :3], x[:, 3:]], 1), 8, 8),
    "pixel shuffle": (lambda x: functional.pixel_shuffle(x, 2), 2, 2),
    "pixel unshuffle": (lambda x: functional.pixel_unshuffle(x, 2), 32, 8),
    "windows": (windows, 8, 8),
    "a norm over pixels": (lambda x: functional.layer_norm(x, x.shape[2:]), 8, 8),
    "attention over pixels": (lambda x: x * x.flatten(2).softmax(-1).view(x.shape), 8, 8),
    "padding": (lambda x: functional.pad(x, (1, 2, 0, 1)), 8, 8),
    "reflected padding": (lambda x: functional.pad(x, (1, 2, 0, 1), "reflect"), 8, 8),
    "pools and their kin": (
        lambda x: functional.interpolate(
            functional.max_pool2d(x, 2) + functional.adaptive_avg_pool2d(x, 4), size=8
        ),
        8,
        8,
    ),
    "overwritten whole": (written, 8, 8),
    "twice": (lambda x: torch.cat([x, x.relu()], 1), 16, 8),
}


@pytest.mark.parametrize("name", FREE)
def test_channels_are_followed_through(name: str) -> None:
    between, inputs, units = FREE[name]
    assert of_first(between, inputs) == (units, "")


def into_a_slice(x: Tensor) -> Tensor:
    whole = x.new_zeros(x.shape)
    whole[:, 2:] = x[:, 2:]
    return whole


KEPT: Mapping[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "a mean of channels": (
        lambda x: x - x.mean(1, keepdim=True),
        8,
        "one value of it acts on many",
    ),
    "softmax": (lambda x: x.softmax(1), 8, "one unit"),
    "a norm": (lambda x: functional.normalize(x, dim=1), 8, "one unit"),
    "layer norm": (
        lambda x: functional.layer_norm(x.movedim(1, -1), (8,)).movedim(-1, 1),
        8,
        "a LayerNorm takes part",
    ),
    "a constant of each channel": (
        lambda x: x * torch.arange(8.0)[:, None, None],
        8,
        "a tensor of fixed size takes part, whose channels cannot be removed",
    ),
    "zeros beside": (
        lambda x: x + functional.pad(x[:, :4], (0, 0, 0, 0, 2, 2)),
        8,
        "joined with values that belong to no channel",
    ),
    "a slice of fixed width": (lambda x: x[:, :4], 4, "different numbers of channels in second"),
    "parts of fixed widths": (
        lambda x: torch.cat([x.split([3, 5], 1)[1].relu(), x[:, :3]], 1),
        8,
        "does not run without these channels",
    ),
    "a shape of fixed size": (
        lambda x: x.reshape(-1, 4, 2, 8, 8).flatten(1, 2),
        8,
        "does not run without these channels",
    ),
    "an operation of no known kind": (lambda x: torch.fft.fft(x, dim=1).real, 8, "_fft"),
    "written into a part": (into_a_slice, 8, "written into a part of another tensor"),
    "a matrix": (lambda x: torch.einsum("nchw,cd->ndhw", x, torch.eye(8)), 8, "matrix product"),
}


@pytest.mark.parametrize("name", KEPT)
def test_channels_that_must_stay_are_refused_with_the_reason(name: str) -> None:
    between, inputs, says = KEPT[name]
    size, reason = of_first(between, inputs)
    assert size == 0
    assert says in reason


class C2f(nn.Module):
    """The block that YOLO's detectors are made of: half of it passes on, half goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 12, 1), nn.Conv2d(18, 8, 1)
        self.narrow, self.widen = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(12), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(functional.silu(self.norm(self.enter(x))).chunk(2, 1))
        parts.append(parts[-1] + self.widen(functional.silu(self.narrow(parts[-1]))))
        logits: Tensor = self.fc(functional.silu(self.leave(torch.cat(parts, 1))).mean((2, 3)))
        return logits


def test_a_block_of_a_detector_is_pruned_by_the_same_place_of_both_halves() -> None:
    found = groups_of(trained(C2f))
    assert [(g.name, g.size, g.channels) for g in found.groups] == [
        ("enter", 6, 12),
        ("leave", 8, 8),
        ("narrow", 4, 4),
    ]
    reader = next(m for m in found.groups[0].members if (m.layer, m.side) == ("leave", "in"))
    assert reader.units.tolist() == [*range(6), *range(6), *range(6)]


class TwiceBesideSlices(nn.Module):
    """A layer that runs twice, its output cut and put together: round and round for a tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for _ in range(2):
            y = functional.relu(self.twice(y))
            y = torch.cat([y[:, :3], y[:, 3:]], 1)
        logits: Tensor = self.fc(y.mean((2, 3)))
        return logits


def test_a_layer_that_runs_twice_beside_slices_is_followed_to_an_end() -> None:
    start = time.perf_counter()
    (group,) = groups_of(trained(TwiceBesideSlices)).groups
    assert (group.name, group.size) == ("stem", 8)
    assert time.perf_counter() - start < 5


class Cached(nn.Module):
    """Keeps what it computes from a parameter, as LeViT does with its position biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.biases = nn.Parameter(torch.randn(4))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.biases[:, None].repeat(1, 16).view(8, 8)
        logits: Tensor = self.fc(functional.relu(self.stem(x) + self.kept).mean((2, 3)))
        return logits


def test_a_network_that_keeps_a_tensor_it_computed_is_pruned() -> None:
    (group,) = groups_of(trained(Cached)).groups
    assert (group.name, group.size) == ("stem", 8)


class Attention(nn.Module):
    """Self-attention with a gate of one channel, and layers around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = (x * self.gate(x).sigmoid()).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        logits: Tensor = self.fc(functional.relu(self.out(y)).mean(1))
        return logits


def test_what_lies_around_attention_and_gates_is_pruned_and_they_say_why_not() -> None:
    found = groups_of(trained(Attention))
    assert [group.name for group in found.groups] == ["stem", "out"]
    assert found.refused["qkv"] == "attention compares its channels"
    assert found.refused["gate"] == "one value of it acts on many channels"


class Bilinear(nn.Module):
    """Each channel of one layer times each of another, and a branch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.free, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(24, 4)
        self.beside = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x).relu().mean((2, 3)), self.right(x).relu().mean((2, 3))
        pairs = left[:, :, None] * right[:, None, :]
        found: Tensor = self.fc(pairs.flatten(1)) + self.beside(self.free(x).relu().mean((2, 3)))
        return found


def test_channels_that_meet_along_two_axes_stay_and_others_go() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = find_groups(Bilinear().eval(), torch.randn(4, 3, 6, 6))
    assert [group.name for group in found.groups] == ["free"]
    for name in ("left", "right"):
        assert "along another axis" in found.refused[name]


class FirstIsOther(nn.Module):
    """Its first channel is treated otherwise, wherever it comes to stand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = torch.cat([x[:, :1] * 3, x[:, 1:]], 1)
        found: Tensor = self.fc(self.second(x).relu().mean((2, 3)))
        return found


@pytest.mark.parametrize("seed", range(4))
def test_a_channel_at_a_fixed_place_is_removed_in_some_trial(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = find_groups(FirstIsOther().eval(), torch.randn(4, 3, 6, 6))
    assert [group.name for group in found.groups] == ["second"]
