"""Torchvision's networks where only shapes matter, as for the size and the speed of an engine."""

import warnings
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn
from torchvision import models
from torchvision.models import VisionTransformer

from pipeline.network.costs import macs_model
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


def prune_by_peer(network: nn.Module, inputs: Tensor, macs_ratio: float) -> float:
    """Torch-Pruning's own pruner, in place: L2 magnitude in each layer, all layers but the head.

    The part of the MACs that is left. Raises ValueError where that is not what was asked for.
    """
    dense = macs_of(network, inputs)
    ratio = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = _peer_pruner(network, inputs[:1])
        for _ in range(PEER_STEPS - 1):
            pruner.step()
            if isinstance(network, VisionTransformer):
                network.hidden_dim = network.conv_proj.out_channels  # its forward function asks
            ratio = macs_of(network, inputs) / dense
            if ratio <= macs_ratio + PEER_SLACK / 5:
                break
    if abs(ratio - macs_ratio) > PEER_SLACK:
        raise ValueError(f"{ratio:.3f} of the MACs are left, {macs_ratio} were asked for")
    return ratio


def macs_of(network: nn.Module, inputs: Tensor) -> int:
    """MACs of one image."""
    return macs_model(network, inputs[:1]).total((), {})


def _peer_pruner(network: nn.Module, example: Tensor) -> torch_pruning.BasePruner:
    """As its own script for torchvision's models sets it up."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    heads = network.encoder.layers[0].num_heads if isinstance(network, VisionTransformer) else None
    return torch_pruning.MagnitudePruner(
        network.requires_grad_(True),
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=1.0,
        iterative_steps=PEER_STEPS,
        round_to=heads,
        ignored_layers=[layers[-1]],
    )
