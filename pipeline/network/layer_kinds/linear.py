"""Linear layers, of feature vectors or of tokens."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from exporters.graph.layer_shape import LayerShape
from pipeline.network.layer_kinds.kind import LinearMap, Padding


@dataclass(frozen=True)
class Linear(LinearMap):
    """The weight is [outputs, inputs]."""

    TYPES = (nn.Linear,)
    COUNTS = {"out": "out_features", "in": "in_features"}

    layer: nn.Linear

    @property
    def channels_last(self) -> bool:
        return True

    def shape(self, inputs: Tensor) -> LayerShape:
        return LayerShape(
            kind="linear",
            inputs=self.layer.in_features,
            outputs=self.layer.out_features,
            positions=tuple(inputs.shape[1:-1]),
            repeats=len(inputs),
        )

    def input_rows(
        self,
        inputs: Tensor,
        positions: tuple[int, ...],
        chosen: Tensor,
        padding: Padding | None = None,
    ) -> Tensor:
        return self.output_rows(inputs, chosen)[None]

    def matrix_of(self, weight: Tensor) -> Tensor:
        return weight[None]

    def weight_of(self, matrix: Tensor) -> Tensor:
        return matrix[0]

    def applied(
        self, inputs: Tensor, weight: Tensor, bias: Tensor, padding: Padding | None = None
    ) -> Tensor:
        return functional.linear(inputs, weight, bias)

    def at_constant_input(self, means: Tensor) -> Tensor:
        return self.weight.detach() @ means
