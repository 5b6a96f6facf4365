"""Which layers really give their weights times what their rows hold, found by running them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.network.layer_kinds import LinearMap, Padding

MOST_POSITIONS = 64
"""Output positions of each sample that are compared, the first and the last among them."""
TOLERANCE = 1e-3
"""Relative to the largest output."""


def linear_layers(
    network: nn.Module,
    batch: Tensor,
    maps: Mapping[str, LinearMap],
    paddings: Mapping[str, Padding],
) -> set[str]:
    """The layers of `maps` whose outputs for `batch` are their rows times their weights.

    A class may do more in its own `forward` than its attributes tell: pad by the size of its
    input, or norm its weights. `paddings` are those already known of.
    """
    found: set[str] = set()

    def compare(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if _is_linear(maps[name], args[0], output, paddings.get(name)):
                found.add(name)

        return hook

    handles = [kind.layer.register_forward_hook(compare(name)) for name, kind in maps.items()]
    try:
        with torch.no_grad():
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _is_linear(kind: LinearMap, inputs: Tensor, output: Tensor, padding: Padding | None) -> bool:
    places = kind.positions(output)
    count = int(torch.tensor(places).prod()) if places else 1
    spread = torch.linspace(0, count - 1, min(count, MOST_POSITIONS), dtype=torch.float64)
    chosen = spread.round().long().expand(len(inputs), -1)
    try:
        rows = kind.input_rows(inputs, places, chosen, padding)
        found = (rows @ kind.matrix_of(kind.weight).transpose(1, 2)).transpose(0, 1).flatten(1)
        wanted = kind.output_rows(output, chosen)
    except (IndexError, RuntimeError):  # its inputs are no larger than its outputs need, for one
        return False
    if kind.bias is not None:
        found = found + kind.bias
    difference = (found - wanted).abs().max()
    return found.shape == wanted.shape and bool(difference <= TOLERANCE * wanted.abs().max())
