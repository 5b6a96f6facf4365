"""How many samples walk through a network at a time: as many as it and its input's shape say."""

import torch
from torch import Tensor, nn

from pipeline.network.spool import Between, Samples

MOST_SAMPLES = 250
"""More at a time is no faster on a CPU."""
LARGEST_BYTES = 2**26
"""Of the largest output of a layer for all samples that walk together: memory for more is taken
from the system and given back at each layer, which costs more than it saves."""


def parts_of(network: nn.Module, inputs: Samples) -> list[Between]:
    """The parts in which `inputs` [samples, ...] go through `network`, one after another.

    They do not depend on how much memory is free: results are the same everywhere.
    """
    size = max(1, min(MOST_SAMPLES, LARGEST_BYTES // largest_output(network, inputs[:1])))
    count = len(inputs)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def largest_output(network: nn.Module, example: Tensor) -> int:
    """Bytes of the largest tensor that a layer of the network gives for `example`."""
    sizes = [example.nbytes]

    def note(_: nn.Module, __: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)
