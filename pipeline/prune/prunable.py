"""A network about to be pruned: its groups of channels, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.network.channel_tracer import IS_OUTPUT
from pipeline.network.computed_weights import refuse_computed_weights
from pipeline.network.costs import Counts, MacsModel, macs_model
from pipeline.network.groups import Group, fault, find_groups
from pipeline.network.plan import PruningPlan
from pipeline.network.run import outputs_of
from profiles.errors import StageError

MOST_NAMES = 4
"""Of groups that are not pruned for one reason."""


@dataclass(frozen=True)
class PrunableNetwork:
    """A network in eval mode, and what can be pruned of it."""

    network: nn.Module
    groups: tuple[Group, ...]
    """The groups of channels that may be pruned, in the network's order."""
    refused: Mapping[str, str]
    """Why each of the other groups may not be pruned, by its name."""
    macs_model: MacsModel
    macs: int
    """MACs of one sample before anything is pruned; 1 MAC = 2 FLOPs."""

    def macs_at(self, counts: Counts) -> int:
        """MACs of one sample when each group keeps `counts` of its units."""
        return self.macs_model.total(self.groups, counts)


def find_prunable(network: nn.Module, example: Tensor) -> PrunableNetwork:
    """What can be pruned of `network`, in eval mode, found on `example` [n, ...].

    Raises StageError for a network without groups, one that answers differently each time, or one
    with weights that are computed from other tensors.
    """
    refuse_computed_weights(network)
    _check_repeatable(network, example)
    prunable = inspect_network(network, example)
    if not prunable.groups:
        reasons = "; ".join(f"{name}: {why}" for name, why in prunable.refused.items())
        raise StageError(f"the network has nothing to prune ({reasons or 'no group found'})")
    return prunable


def inspect_network(network: nn.Module, example: Tensor) -> PrunableNetwork:
    """The groups of `network`, in eval mode, and its costs; there may be no group at all.

    Raises StageError for weights that are computed from other tensors.
    """
    refuse_computed_weights(network)
    found = find_groups(network, example)
    model = macs_model(network, example[:1])
    return PrunableNetwork(network, found.groups, found.refused, model, model.total((), {}))


def with_units_of(prunable: PrunableNetwork, dense: PrunableNetwork) -> PrunableNetwork:
    """Without the groups whose units are no longer those of the dense network.

    A grouped convolution with one channel left in each group is depthwise, and no plan of the
    dense network takes its groups away.
    """
    width = {group.name: group.channels // group.size for group in dense.groups}
    same, changed = [], {}
    for group in prunable.groups:
        if width.get(group.name) == group.channels // group.size:
            same.append(group)
        else:
            changed[group.name] = "its units are not those of the dense network"
    return replace(prunable, groups=tuple(same), refused={**prunable.refused, **changed})


def refusals(prunable: PrunableNetwork) -> tuple[str, ...]:
    """Why groups are not pruned, besides the network's output: a line for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in prunable.refused.items():
        if reason != IS_OUTPUT:
            names.setdefault(reason, []).append(name)
    return tuple(
        f"not pruned: {', '.join(found[:MOST_NAMES])}"
        + (f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else "")
        + f" ({reason})"
        for reason, found in names.items()
    )


def verify(prunable: PrunableNetwork, plan: PruningPlan, example: Tensor) -> None:
    """Raise StageError unless removing the plan's channels is the same as silencing them."""
    difference = fault(prunable.network, plan, example)
    if difference:
        raise StageError(
            f"the pruned network is not the network without its channels: {difference}"
        )


def _check_repeatable(network: nn.Module, example: Tensor) -> None:
    with torch.no_grad():
        first, second = outputs_of(network, example), outputs_of(network, example)
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise StageError(
            "the network answers differently to the same input: take the randomness out of its "
            "forward function, or make it depend on self.training"
        )
