"""A layer and the batch norm behind it as one linear map, read and written."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import Site
from pipeline.network.layer_kinds import BatchNorm, LinearMap, kind_of, linear_map

SMALLEST_SCALE = 1e-3
"""A batch norm that scales by less is set to this when weights are written before it."""


@dataclass(frozen=True)
class Folded:
    """One layer of a network, with its batch norm if it has one."""

    layer: nn.Module
    norm: nn.Module | None

    def shifts(self) -> bool:
        """Whether there is a place for a bias."""
        return self.norm is not None or self._map.bias is not None

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [outputs] of what the layer's weights alone give."""
        own, norm = self._map, self._batch_norm
        ones = own.weight.detach().new_ones(own.channels("out"))
        shift = torch.zeros_like(ones) if own.bias is None else own.bias.detach()
        return (ones, shift) if norm is None else norm.folded(shift)

    def weight(self) -> Tensor:
        """The folded weight, [groups, outputs / groups, columns] as `LinearMap.matrix_of`."""
        own = self._map.matrix_of(self._map.weight.detach())
        return own * self.affine()[0].reshape(*own.shape[:2], 1)

    def write(self, weight: Tensor, bias: Tensor, rows: Tensor) -> None:
        """Make the map `weight` and `bias`.

        `rows` [groups, n, columns] are inputs of the layer: the batch norm's mean and variance
        become those of its input, so that it answers alike when it trains on.
        """
        layer, norm = self._map, self._batch_norm
        with torch.no_grad():
            if norm is None:
                layer.weight.copy_(layer.weight_of(weight))
                if layer.bias is not None:
                    layer.bias.copy_(bias)
                return
            scale, _ = self.affine()
            scale = torch.where(scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, scale)
            own = weight / scale.reshape(*weight.shape[:2], 1)
            layer.weight.copy_(layer.weight_of(own))
            outputs = (rows @ own.transpose(1, 2)).transpose(0, 1).flatten(1)
            mean = outputs.mean(0)
            variance = outputs.sub_(mean).square_().sum(0) / (len(outputs) - 1)
            shift = torch.zeros_like(mean) if layer.bias is None else layer.bias
            norm.layer.get_buffer("running_var").copy_(variance)
            norm.layer.get_buffer("running_mean").copy_(mean + shift)
            norm.layer.weight.copy_(scale * (variance + norm.layer.eps).sqrt())
            norm.layer.bias.copy_(bias + mean * scale)

    @property
    def _map(self) -> LinearMap:
        return linear_map(self.layer)

    @property
    def _batch_norm(self) -> BatchNorm | None:
        found = kind_of(self.norm) if self.norm else None
        assert found is None or isinstance(found, BatchNorm)
        return found


def folded(layers: dict[str, nn.Module], site: Site) -> Folded:
    """The layer of `site` with its batch norm."""
    return Folded(layers[site.layer], layers[site.norm] if site.norm else None)
