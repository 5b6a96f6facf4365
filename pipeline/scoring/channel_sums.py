"""Sums over samples and positions, a channel each, of what passes through a network."""

from collections.abc import Sequence

import torch
from torch import Tensor

AT_ONCE = 2**17
"""Numbers reduced at a time on a CPU, so that what is made of them stays in its cache."""


def moments(value: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of value^2 and of value, a channel each, of [n, channels, positions].

    On a CPU by way of a batch norm's gradients of scale and shift, which are these two sums:
    its kernel reads each number once.
    """
    if value.is_cuda:
        return value.square().sum((0, 2)).double(), value.sum((0, 2)).double()
    one, zero = torch.ones_like(value[0, :, 0]), torch.zeros_like(value[0, :, 0])
    norm = (one, zero, one, None, None, False, 0.0, (False, True, True))
    _, square, total = torch.ops.aten.native_batch_norm_backward(value, value, *norm)
    return square.double(), total.double()


def in_turn(value: Tensor) -> Sequence[Tensor]:
    """[n, channels, positions] as [n * channels, positions], some rows at a time."""
    rows = value.flatten(0, 1)
    size = len(rows) if value.is_cuda else AT_ONCE // max(1, rows.shape[1])
    parts: Sequence[Tensor] = rows.split(max(1, size))
    return parts


@torch.no_grad()
def absolute_sum(value: Tensor) -> Tensor:
    """[channels], float64, of [n, channels, positions]."""
    sums = torch.cat([rows.abs().sum(1) for rows in in_turn(value)])
    return sums.view(value.shape[:2]).double().sum(0)


class ChannelMoments:
    """Sums over samples and positions, a channel each, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.square = self.absolute = torch.zeros(())

    @torch.no_grad()
    def add(self, value: Tensor, non_negative: bool = True) -> None:
        """Add [n, channels, positions]; `non_negative` where abs is known to change nothing."""
        square, total = moments(value)
        self.count += value.shape[0] * value.shape[2]
        self.total, self.square = self.total + total, self.square + square
        self.absolute = self.absolute + (total if non_negative else absolute_sum(value))

    def variance(self) -> Tensor:
        return (self.square / self.count - (self.total / self.count) ** 2).clamp(min=0)


def by_channel(value: Tensor, channels_last: bool) -> Tensor:
    """[n, channels, positions]"""
    if channels_last:
        return value.reshape(len(value), -1, value.shape[-1]).transpose(1, 2)
    return value.flatten(2) if value.dim() > 2 else value[:, :, None]
