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
    total = products.double().square().sum((1, 2, 3)) - diagonal.double().square().sum((1, 2))
    squares: Tensor = total / own.shape[2] ** 2
    return squares


def chance_square(moments: Tensor, mean_square: Tensor, samples: int) -> Tensor:
    """[groups]: the square that moments off the diagonal would have by chance alone.

    `moments` [groups, columns, columns] are the means over samples; `mean_square` [groups] of
    `squared_moments`, both around the same point, near the mean. Of one sample nobody can tell: 0.
    """
    return (mean_square - _off_diagonal(moments)).clamp(min=0) / max(samples - 1, 1)


def shrink(moments: Tensor, chance: Tensor) -> None:
    """Take the share that is chance [groups] from centred moments [groups, columns, columns]."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    variances = diagonal.clone()
    share = (chance / _off_diagonal(moments).clamp(min=NONE)).clamp(max=1)
    moments *= (1 - share)[:, None, None]
    diagonal.copy_(variances)


def _off_diagonal(moments: Tensor) -> Tensor:
    """[groups]: the sum of squares off the diagonal."""
    diagonal = moments.diagonal(dim1=1, dim2=2).square().sum(1)
    rest: Tensor = torch.linalg.matrix_norm(moments).square() - diagonal
    return rest
