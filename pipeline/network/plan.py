"""PruningPlan: the channels every layer keeps, as data; and how a network becomes that."""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from pipeline.network.layer_kinds import LayerKind, Side, kind_of
from profiles.errors import ConfigError
from profiles.spec import Spec


class Kept(Spec):
    """Sorted channel indices that stay, of `of` in the unpruned layer."""

    of: PositiveInt
    channels: tuple[NonNegativeInt, ...]


class LayerPlan(Spec):
    """What one layer keeps of its outputs and of its inputs; None keeps all."""

    out: Kept | None = None
    inputs: Kept | None = None


class PruningPlan(Spec):
    """The kept channels of every layer that loses some, by its name in the network."""

    schema_version: Literal[1] = 1
    layers: dict[str, LayerPlan]
    skipped: tuple[str, ...] = ()
    """Residual blocks that hand on what they are given: the identity takes their place."""


def channels_of(layer: nn.Module, side: Side) -> int:
    """The number of output or input channels of a prunable layer."""
    kind = kind_of(layer)
    if kind is None:
        raise TypeError(f"{type(layer).__name__} has no prunable channels")
    return kind.channels(side)


def apply_plan(network: nn.Module, plan: PruningPlan) -> nn.Module:
    """A smaller copy of `network`: real slices of its weights, no masks.

    Raises ConfigError when the plan was made for another network.
    """
    pruned = copy.deepcopy(network)
    _skip(pruned, plan)
    layers = dict(pruned.named_modules())
    for name, kept in plan.layers.items():
        kind = kind_of(layers[name]) if name in layers else None
        if kind is None:
            raise ConfigError(f"the plan prunes {name!r}, which the network does not have")
        sides: tuple[tuple[Side, Kept | None], ...] = (("out", kept.out), ("in", kept.inputs))
        for side, part in sides:
            if part is not None:
                _check(name, kind, side, part)
                kind.slice(side, part.channels)
    return pruned


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """The plan that does at once what `second` does to the network that `first` leaves.

    Raises ConfigError when `second` was made for another network.
    """
    names = dict.fromkeys([*first.layers, *second.layers])
    layers = {}
    for name in names:
        a, b = (plan.layers.get(name, LayerPlan()) for plan in (first, second))
        layers[name] = LayerPlan(
            out=_composed(name, a.out, b.out), inputs=_composed(name, a.inputs, b.inputs)
        )
    skipped = tuple(dict.fromkeys((*first.skipped, *second.skipped)))
    inside = tuple(f"{name}." for name in skipped)
    left = {name: kept for name, kept in layers.items() if not name.startswith(inside)}
    return PruningPlan(layers=left, skipped=skipped)


def _skip(network: nn.Module, plan: PruningPlan) -> None:
    for name in plan.skipped:
        try:
            network.get_submodule(name)
        except AttributeError as error:
            raise ConfigError(
                f"the plan skips {name!r}, which the network does not have"
            ) from error
        network.set_submodule(name, nn.Identity())


def _composed(name: str, first: Kept | None, second: Kept | None) -> Kept | None:
    if first is None or second is None:
        return first or second
    if second.of != len(first.channels):
        raise ConfigError(
            f"the second plan is for a {name} with {second.of} channels, "
            f"the first leaves {len(first.channels)}: make it for the network that the first leaves"
        )
    return Kept(of=first.of, channels=tuple(first.channels[i] for i in second.channels))


def _check(name: str, kind: LayerKind, side: Side, kept: Kept) -> None:
    found = kind.channels(side)
    if found != kept.of:
        raise ConfigError(
            f"the plan is for a {name} with {kept.of} {side} channels, the network has {found}: "
            "it is another network, or pruned already"
        )
    valid = len(kept.channels) > 0 and kept.channels[-1] < kept.of
    if not valid or list(kept.channels) != sorted(set(kept.channels)):
        raise ConfigError(f"the plan's channels of {name} are not sorted, unique and in range")


def masked(network: nn.Module, plan: PruningPlan) -> nn.Module:
    """A copy of `network` at full size in which the removed channels are zero, and nobody listens.

    It computes the same as `apply_plan(network, plan)` exactly when the plan is right: every
    weight that makes or reads a removed channel is zero.
    """
    silent = copy.deepcopy(network)
    _skip(silent, plan)
    layers: Mapping[str, nn.Module] = dict(silent.named_modules())
    for name, kept in plan.layers.items():
        kind = kind_of(layers[name])
        if kind is not None and kept.out is not None:
            kind.silence_outputs(_removed(kept.out))
        if kind is not None and kept.inputs is not None:
            kind.silence_inputs(_removed(kept.inputs))
    return silent


def _removed(kept: Kept) -> Tensor:
    """[of], bool: whether a channel goes."""
    removed = torch.ones(kept.of, dtype=torch.bool)
    removed[list(kept.channels)] = False
    return removed
