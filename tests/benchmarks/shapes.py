"""Torchvision's networks where only shapes matter, as for the size and the speed of an engine."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from timm.layers.attention import Attention
from torch import Tensor, nn
from torchvision import models
from torchvision.models import VisionTransformer

from pipeline.data.arrays import IntArray
from pipeline.network.costs import macs_model
from pipeline.network.layer_kinds import FilterBank, Side, kind_of
from pipeline.network.plan import apply_plan
from pipeline.network.weights import load_weights, read_weights
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, Widths
from pipeline.prune.choose import Selection, choose
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.prunable import find_prunable, verify
from pipeline.scoring.collect import collect
from pipeline.task import cross_entropy

PEER = "torch-pruning"
PEER_STEPS = 50
"""In which its pruner would take all channels away; it is stopped at the MACs asked for."""
PEER_SLACK = 0.05
"""How far from the MACs asked for what it leaves may be, as a part of the dense MACs."""


def load(name: str, data: Path) -> nn.Module:
    """The network in eval mode: with the weights of `data`, else random, batch norm's too."""
    torch.manual_seed(0)
    network: nn.Module = getattr(models, name)()
    path = data / f"imagenet_{name}.safetensors"
    if path.exists():
        load_weights(network, read_weights(path), name)
        return network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def pruned(network: nn.Module, inputs: Tensor, macs_ratio: float, widths: Widths) -> nn.Module:
    """A copy at `macs_ratio`, by magnitude, alike in every group."""
    example = inputs[:1]
    prunable = find_prunable(network, example)
    stats = collect(network, prunable.groups, (), cross_entropy, Magnitude.needs)
    limits = Limits(macs=macs_ratio * prunable.macs)
    choice = choose(prunable, stats, Selection(Magnitude(), Uniform(), widths), limits)
    verify(prunable, choice.plan, example)
    return apply_plan(network, choice.plan)


def prune_by_peer(
    network: nn.Module, inputs: Tensor, macs_ratio: float, left: dict[str, IntArray] | None = None
) -> float:
    """Torch-Pruning's own pruner, in place: L2 magnitude in each layer, all layers but the head.

    The part of the MACs that is left. Raises ValueError where that is not what was asked for.
    `left` is given the channels that stay, by "NAME in" and "NAME out".
    """
    dense = macs_of(network, inputs)
    ratio = 1.0
    names = {layer: name for name, layer in network.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = _peer_pruner(network, inputs[:1])
        for _ in range(PEER_STEPS - 1):
            for group in pruner.step(interactive=True):
                if left is not None:
                    _note(left, names, group)
                group.prune()
            for layer in network.modules():
                if isinstance(layer, Attention):  # as its script for timm's models does
                    layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
                    layer.attn_dim = layer.num_heads * layer.head_dim
            if isinstance(network, VisionTransformer):
                network.hidden_dim = network.conv_proj.out_channels  # its forward function asks
            ratio = macs_of(network, inputs) / dense
            if ratio <= macs_ratio + PEER_SLACK / 5:
                break
    if abs(ratio - macs_ratio) > PEER_SLACK:
        raise ValueError(f"{ratio:.3f} of the MACs are left, {macs_ratio} were asked for")
    return ratio


def difference_from_silence(
    small: nn.Module, dense: nn.Module, left: Mapping[str, IntArray], inputs: Tensor
) -> float:
    """How far `small` is from `dense` with the removed channels given and read as zeros.

    The largest difference, relative to the largest output; `dense` is changed in place.
    """
    layers = dict(dense.named_modules())
    for name, kept in left.items():
        layer, _, side = name.rpartition(" ")
        kind = kind_of(layers[layer])
        assert isinstance(kind, FilterBank)
        gone = torch.ones(kind.channels("in" if side == "in" else "out"), dtype=torch.bool)
        gone[torch.from_numpy(kept)] = False
        (kind.silence_inputs if side == "in" else kind.silence_outputs)(gone)
    with torch.no_grad():
        found, wanted = small(inputs), dense(inputs)
    return float((found - wanted).abs().max() / wanted.abs().max())


def _note(
    left: dict[str, IntArray], names: Mapping[nn.Module, str], group: torch_pruning.Group
) -> None:
    """Take the channels that a group is about to remove from those that stay."""
    for dependency, indices in group:
        layer = dependency.target.module
        kind = kind_of(layer) if layer in names else None
        if not isinstance(kind, FilterBank):
            continue
        reads = dependency.handler.__name__ == "prune_in_channels" and not kind.one_sided
        side: Side = "in" if reads else "out"
        name = f"{names[layer]} {side}"
        left[name] = np.delete(left.get(name, np.arange(kind.channels(side))), indices)


def macs_of(network: nn.Module, inputs: Tensor) -> int:
    """MACs of one image."""
    return macs_model(network, inputs[:1]).total((), {})


def _peer_pruner(network: nn.Module, example: Tensor) -> torch_pruning.BasePruner:
    """As its own script for torchvision's models sets it up."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    heads = network.encoder.layers[0].num_heads if isinstance(network, VisionTransformer) else None
    attention = [layer for layer in network.modules() if isinstance(layer, Attention)]
    for layer in attention:
        layer.fused_attn = False  # type: ignore[misc]  # as its script does
    return torch_pruning.MagnitudePruner(
        network.requires_grad_(True),
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=1.0,
        iterative_steps=PEER_STEPS,
        round_to=heads,
        num_heads={layer.qkv: layer.num_heads for layer in attention},
        ignored_layers=[layers[-1]],
    )
