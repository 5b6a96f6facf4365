"""The shapes in which a network's layers with weights run, found in one forward pass."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporters.graph.layer_shape import LayerShape
from pipeline.network.layer_kinds import FilterBank, kind_of


def layer_shapes(network: nn.Module, example: Tensor) -> Mapping[str, tuple[LayerShape, ...]]:
    """Every shape of each layer by its name; several where a layer runs several times.

    `network` is in eval mode, `example` is [1, ...].
    """
    found: dict[str, tuple[LayerShape, ...]] = {}
    handles = []
    for name, layer in network.named_modules():
        kind = kind_of(layer)
        if isinstance(kind, FilterBank):

            def note(
                _: nn.Module,
                args: tuple[Tensor, ...],
                __: Tensor,
                name: str = name,
                kind: FilterBank = kind,
            ) -> None:
                found[name] = (*found.get(name, ()), kind.shape(args[0]))

            handles.append(layer.register_forward_hook(note))
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return found
