"""Global response norms (ConvNeXt V2, arXiv 2301.00808), whoever wrote the class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.network.layer_kinds.kind import Channelwise, Side

NAMES = frozenset({"GlobalResponseNorm", "GRN", "ConvNextV2GRN"})
"""torch has no such class; timm, the paper's authors and transformers call theirs so."""


@dataclass(frozen=True)
class ResponseNorm(Channelwise):
    """Scale and shift are [channels], or [1, 1, 1, channels].

    A channel's norm is divided by the mean over all channels. A removed channel counts as a zero
    in it: the mean over the others grows, so the scale grows and `eps` too.
    """

    TYPES = ()
    COUNT = ""
    TENSORS = ("weight", "bias", "gamma", "beta")

    layer: nn.Module

    @classmethod
    def holds(cls, layer: nn.Module) -> bool:
        names = {name for name, _ in layer.named_parameters()}
        return type(layer).__name__ in NAMES and names in ({"weight", "bias"}, {"gamma", "beta"})

    @property
    def channels_last(self) -> bool:
        return getattr(self.layer, "channel_dim", -1) == -1

    def channels(self, side: Side) -> int:
        return next(self.layer.parameters()).numel()

    def slice(self, side: Side, kept: Sequence[int]) -> None:
        growth = self.channels(side) / len(kept)
        for name in self.TENSORS:
            value = getattr(self.layer, name, None)
            if value is not None:
                part = value.detach().index_select(-1, torch.tensor(kept, device=value.device))
                part = part * growth if name in ("weight", "gamma") else part.clone()
                setattr(self.layer, name, nn.Parameter(part, requires_grad=value.requires_grad))
        eps = getattr(self.layer, "eps", None)
        if isinstance(eps, float):
            setattr(self.layer, "eps", eps * growth)  # noqa: B010, not every class has it
