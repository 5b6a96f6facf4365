"""Group norms, whose groups of channels are kept or removed whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pipeline.data.arrays import IntArray
from pipeline.network.layer_kinds.kind import Channelwise, Side
from profiles.errors import ConfigError


@dataclass(frozen=True)
class GroupNorm(Channelwise):
    """Weight and bias are [channels]; the channels of a group share their mean and variance."""

    TYPES = (nn.GroupNorm,)
    COUNT = "num_channels"
    TENSORS = ("weight", "bias")

    layer: nn.GroupNorm

    def tied_channels(self, side: Side) -> IntArray:
        return np.arange(self.layer.num_channels) // self._group_size

    def slice(self, side: Side, kept: Sequence[int]) -> None:
        size = self._group_size
        groups = {channel // size for channel in kept}
        if len(groups) * size != len(kept):
            raise ConfigError(
                f"the plan keeps {len(kept)} channels in {len(groups)} groups of a GroupNorm, "
                f"which has {size} channels in each: keep or remove its groups whole"
            )
        super().slice(side, kept)
        self.layer.num_groups = len(groups)

    @property
    def _group_size(self) -> int:
        return self.layer.num_channels // self.layer.num_groups
