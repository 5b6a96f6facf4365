"""Rows of every layer's output, recorded where they count."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipeline.layers.output_sites import Site
from pipeline.layers.output_tracker import OutputTracker
from pipeline.layers.sampled_rows import output_rows


class RowRecorder(OutputTracker):
    """Rows of every layer's output: of the sum where it joins one, else behind its batch norm."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sites: Mapping[str, Site],
        positions: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self._layers, self._sites, self._positions = layers, sites, positions
        self.rows: dict[str, Tensor] = {}

    def track(self, layers: tuple[str, ...], value: Tensor, summed: bool = False) -> None:
        super().track(layers, value, summed)
        if not summed and not self._sites[layers[0]].joins:
            self._keep(layers[0], value)

    def after_sum(self, layers: Sequence[str], result: Tensor) -> None:
        for layer in layers:
            if self._sites[layer].joins:
                self._keep(layer, result)

    def _keep(self, layer: str, value: Tensor) -> None:
        self.rows[layer] = output_rows(self._layers[layer], value, self._positions[layer])
