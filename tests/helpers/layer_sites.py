"""Sites of layers that stand alone, outside of a network."""

from torch import Tensor, nn

from pipeline.layers.output_sites import Site
from pipeline.layers.torch_calls import UNBOUNDED, Range


def site_of(layer: nn.Module, example: Tensor, limits: Range = UNBOUNDED) -> Site:
    """Where the outputs of `layer` for `example` [1, ...] are read, within `limits`."""
    shape = layer(example).shape
    places = shape[1:-1] if isinstance(layer, nn.Linear) else shape[2:]
    return Site("layer", tuple(places), range=limits)
