"""Labels of channels: which are one and the same, and which must stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

NOBODY = 0.0
"""The label of a value that belongs to no channel."""


class ChannelLabels:
    """Labels from 1 on, in float64 tensors, so that every operation that moves values moves them.

    Labels that have been joined are one unit: they are removed together, or kept.
    """

    def __init__(self) -> None:
        self._parents = [0]
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        """New labels [count]."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count, dtype=torch.float64)

    def join(self, left: Tensor, right: Tensor, reason: str) -> None:
        """The labels at each place, of two tensors of one shape, are the same unit.

        Where one of them is nobody's, the other one must stay, for `reason`.
        """
        differ = left != right
        if not bool(differ.any()):
            return
        size = len(self._parents)
        pairs = (left[differ] * size + right[differ]).unique().long().tolist()
        for one, other in (map(self.unit, divmod(pair, size)) for pair in pairs):
            if not one or not other:
                self._keep(one or other, reason)
            elif one != other:
                self._parents[max(one, other)] = min(one, other)
                if max(one, other) in self._reasons:
                    self._keep(min(one, other), self._reasons[max(one, other)])

    def keep(self, labels: Tensor, reason: str) -> None:
        """These channels must stay."""
        for label in labels.unique().long().tolist():
            if label:
                self._keep(self.unit(label), reason)

    def unit(self, label: int) -> int:
        """The label that stands for the unit of `label`; 0 for nobody's."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def units(self, labels: Tensor) -> list[int]:
        """The unit of each label."""
        return [self.unit(label) for label in labels.long().tolist()]

    def reason(self, units: Sequence[int]) -> str:
        """Why one of these units must stay; empty where all may go."""
        return next((self._reasons[unit] for unit in units if unit in self._reasons), "")

    def _keep(self, unit: int, reason: str) -> None:
        self._reasons.setdefault(unit, reason)


def varying(labels: Tensor) -> list[int]:
    """The axes along which labels differ."""
    return [
        axis
        for axis, size in enumerate(labels.shape)
        if size > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())
    ]
