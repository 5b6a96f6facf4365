"""Inputs on which removing channels is compared with silencing them: samples, and noise."""

import torch
from torch import Tensor

PROOF_SAMPLES = 8
"""Samples of a data set: any one may be blank, or switch on only a part of the network."""
NOISE_INPUTS = 4
"""Inputs of noise beside them."""
CONSTANT = 1e-6
"""Outputs that differ by less than this part of the largest are the same for every input."""


def proof_samples(inputs: Tensor) -> Tensor:
    """A few of `inputs` [n, ...], evenly spread."""
    count = min(PROOF_SAMPLES, len(inputs))
    return inputs[[place * len(inputs) // count for place in range(count)]]


def with_noise(samples: Tensor) -> tuple[Tensor, Tensor]:
    """`samples` [n, ...], and noise of their shape: uniform in their range, normal without one.

    Two batches, for a network may decide by the whole batch what it computes.
    """
    shape, generator = (NOISE_INPUTS, *samples.shape[1:]), torch.Generator().manual_seed(0)
    least, most = float(samples.min()), float(samples.max())
    if least == most:
        noise = torch.randn(shape, generator=generator)
    else:
        noise = least + (most - least) * torch.rand(shape, generator=generator)
    return samples, noise.to(samples)


def is_constant(outputs: Tensor) -> bool:
    """Whether the outputs [n, ...] are the same for all inputs, and so prove nothing."""
    rows = outputs.flatten(1)
    return bool((rows.amax(0) - rows.amin(0)).max() <= CONSTANT * rows.abs().max())
