"""What a few samples say of how columns vary together, less what they say by chance.

Of 1,280 columns seen in 450 images, any 450 seem to tell all others. The estimate with the least
squared error takes off-diagonal moments smaller by the share of them that is chance (Schäfer &
Strimmer, 2005, target D). Rows of one sample are alike: whole samples are the observations.
"""

import torch
from torch import Tensor

NONE = 1e-300
"""Below this nothing varies together."""


def squared_moments(rows: Tensor, samples: int) -> Tensor:
    """[groups]: each sample's own moments off the diagonal, squared; the sum over the samples.

    `rows` [groups, samples * n, columns], sample by sample.
    """
    own = rows.unflatten(1, (samples, -1))
    other = own.transpose(2, 3)
    # The products of rows have the same squares as those of columns.
    products = own @ other if own.shape[2] < own.shape[3] else other @ own
    diagonal = own.square().sum(2)
    found = products.double().square().sum((1, 2, 3)) - diagonal.double().square().sum((1, 2))
    mean: Tensor = found / own.shape[2] ** 2
    return mean


def chance_share(moments: Tensor, mean_square: Tensor, samples: int) -> Tensor:
    """[groups]: the share of the moments off the diagonal that is chance, 0 to 1.

    `moments` [groups, columns, columns] are the means over samples; `mean_square` [groups] of
    `squared_moments`, both around the same point. Of one sample nobody can tell: 0.
    """
    square = _off_diagonal(moments)
    variance = (mean_square - square).clamp(min=0) / max(samples - 1, 1)
    return (variance / square.clamp(min=NONE)).clamp(max=1)


def shrunk(moments: Tensor, share: Tensor) -> Tensor:
    """The moments [groups, columns, columns], smaller by `share` [groups] off the diagonal."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    kept = moments * (1 - share)[:, None, None]
    return kept + torch.diag_embed(diagonal * share[:, None])


def _off_diagonal(moments: Tensor) -> Tensor:
    """[groups]: the sum of squares off the diagonal."""
    squares = moments.square()
    return squares.sum((1, 2)) - squares.diagonal(dim1=1, dim2=2).sum(1)
