"""PruningPlan: the channels every layer keeps, as data; and how a network becomes that."""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from profiles.errors import ConfigError
from profiles.spec import Spec

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *BATCH_NORMS, nn.PReLU)

Side = Literal["out", "in"]


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
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        return layer.out_channels if side == "out" else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if side == "out" else layer.in_features
    if isinstance(layer, BATCH_NORMS):
        return layer.num_features
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters
    raise TypeError(f"{type(layer).__name__} has no prunable channels")


def is_depthwise(layer: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its place."""
    return (
        isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
        and layer.groups == layer.in_channels == layer.out_channels > 1
    )


def apply_plan(network: nn.Module, plan: PruningPlan) -> nn.Module:
    """A smaller copy of `network`: real slices of its weights, no masks.

    Raises ConfigError when the plan was made for another network.
    """
    pruned = copy.deepcopy(network)
    _skip(pruned, plan)
    layers = dict(pruned.named_modules())
    for name, kept in plan.layers.items():
        layer = layers.get(name)
        if layer is None or not isinstance(layer, PRUNABLE):
            raise ConfigError(f"the plan prunes {name!r}, which the network does not have")
        sides: tuple[tuple[Side, Kept | None], ...] = (("out", kept.out), ("in", kept.inputs))
        for side, part in sides:
            if part is not None:
                _check(name, layer, side, part)
                _slice(layer, side, part.channels)
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


def _check(name: str, layer: nn.Module, side: Side, kept: Kept) -> None:
    found = channels_of(layer, side)
    if found != kept.of:
        raise ConfigError(
            f"the plan is for a {name} with {kept.of} {side} channels, the network has {found}: "
            "it is another network, or pruned already"
        )
    valid = len(kept.channels) > 0 and kept.channels[-1] < kept.of
    if not valid or list(kept.channels) != sorted(set(kept.channels)):
        raise ConfigError(f"the plan's channels of {name} are not sorted, unique and in range")


def _slice(layer: nn.Module, side: Side, channels: Sequence[int]) -> None:
    """Keep `channels` of one side of `layer`, its attributes included."""
    kept = torch.tensor(channels)
    if isinstance(layer, BATCH_NORMS):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(layer, name, 0, kept)
        layer.num_features = len(channels)
    elif isinstance(layer, nn.PReLU):
        _keep(layer, "weight", 0, kept)
        layer.num_parameters = len(channels)
    elif isinstance(layer, nn.Linear):
        _keep(layer, "weight", 0 if side == "out" else 1, kept)
        if side == "out":
            _keep(layer, "bias", 0, kept)
            layer.out_features = len(channels)
        else:
            layer.in_features = len(channels)
    elif isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        _slice_convolution(layer, side, kept)


def _slice_convolution(layer: nn.Module, side: Side, kept: Tensor) -> None:
    """Weights are [out, in / groups, ...], transposed ones [in, out / groups, ...].

    The dimension that counts channels of one group gets the places within a group, which
    must be the same in every group.
    """
    assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
    if is_depthwise(layer):
        _keep(layer, "weight", 0, kept)
        _keep(layer, "bias", 0, kept)
        layer.in_channels = layer.out_channels = layer.groups = len(kept)
        return
    whole_first = side == ("out" if isinstance(layer, CONVOLUTIONS) else "in")
    if whole_first:
        _keep(layer, "weight", 0, kept)
    else:
        _keep(layer, "weight", 1, _within_group(kept, channels_of(layer, side), layer.groups))
    if side == "out":
        _keep(layer, "bias", 0, kept)
        layer.out_channels = len(kept)
    else:
        layer.in_channels = len(kept)


def _within_group(kept: Tensor, channels: int, groups: int) -> Tensor:
    size = channels // groups
    places = torch.tensor(sorted({int(channel) % size for channel in kept}))
    if len(places) * groups != len(kept):
        raise ConfigError("the plan keeps different channels in the groups of one convolution")
    return places


def _keep(layer: nn.Module, name: str, dim: int, kept: Tensor) -> None:
    value: Tensor | None = getattr(layer, name)
    if value is None:
        return
    part = value.detach().index_select(dim, kept.to(value.device)).clone()
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(part, requires_grad=value.requires_grad))
    else:
        setattr(layer, name, part)


def masked(network: nn.Module, plan: PruningPlan) -> nn.Module:
    """A copy of `network` at full size in which nobody listens to the removed channels.

    It computes the same as `apply_plan(network, plan)` exactly when the plan is right: every
    weight that reads a removed channel is zero.
    """
    silent = copy.deepcopy(network)
    _skip(silent, plan)
    layers: Mapping[str, nn.Module] = dict(silent.named_modules())
    for name, kept in plan.layers.items():
        layer = layers[name]
        if kept.inputs is None or is_depthwise(layer):
            continue
        assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))
        removed = torch.ones(kept.inputs.of, dtype=torch.bool)
        removed[list(kept.inputs.channels)] = False
        with torch.no_grad():
            if isinstance(layer, TRANSPOSED):
                layer.weight[removed] = 0
            elif isinstance(layer, nn.Linear) or layer.groups == 1:
                layer.weight[:, removed] = 0
            else:
                size = kept.inputs.of // layer.groups
                layer.weight[:, removed[:size]] = 0
    return silent
