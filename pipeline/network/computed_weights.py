"""Refuses layers whose weights are computed from other tensors: they cannot be sliced in place."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod  # noqa: TID251, to refuse it
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pipeline.network.layer_kinds import FilterBank, kind_of
from profiles.errors import StageError


def refuse_computed_weights(network: nn.Module) -> None:
    """Raise StageError for a prunable layer whose weight or bias is not its own parameter.

    A parametrization, a pruning mask and the older weight and spectral norms compute the tensor
    anew at every call, from others that would keep their size. The message names every such
    layer, and the calls that make its tensors parameters again.
    """
    faults = [
        f"{name or 'the network'}: {fault}"
        for name, layer in network.named_modules()
        for fault in _faults(layer)
    ]
    if faults:
        raise StageError(
            "these layers cannot be pruned, for their weights are no parameters of their own; "
            f"change that and prune again: {'; '.join(faults)}"
        )


def _faults(layer: nn.Module) -> Iterator[str]:
    """What computes the tensors of one layer, and how to end that; nothing for a sound layer."""
    kind = kind_of(layer)
    if kind is None:
        return
    computed = list(_computed_tensors(layer))
    for name, what, remedy in computed:
        yield f"its {name} has {what}, call {remedy}"
    stored = isinstance(getattr(layer, "weight", None), nn.Parameter)
    if isinstance(kind, FilterBank) and not computed and not stored:
        yield "its weight is no nn.Parameter, make it one"


def _computed_tensors(layer: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Each tensor that torch computes: its name, what computes it, and the call that ends that."""
    if is_parametrized(layer):
        assert isinstance(layer.parametrizations, nn.ModuleDict)
        for name in layer.parametrizations:
            remove = "torch.nn.utils.parametrize.remove_parametrizations"
            yield name, "a parametrization", f'{remove}(layer, "{name}")'
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            name = hook._tensor_name
            yield name, "a pruning mask", f'torch.nn.utils.prune.remove(layer, "{name}")'
        elif isinstance(hook, WeightNorm):
            name = hook.name
            yield name, "a weight norm", f'torch.nn.utils.remove_weight_norm(layer, "{name}")'
        elif isinstance(hook, SpectralNorm):
            name = hook.name
            yield name, "a spectral norm", f'torch.nn.utils.remove_spectral_norm(layer, "{name}")'
