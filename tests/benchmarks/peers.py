"""Torch-Pruning as a peer: its importances in its own pruner, as far as our MACs say."""

import copy
import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch_pruning
from real import Prepared, Real
from torch import nn

from pipeline.network.costs import macs_model
from pipeline.network.layer_kinds import LinearMap, kind_of
from pipeline.network.plan import PruningPlan
from pipeline.repair.recoveries import Recovery
from pipeline.task import cross_entropy

PEER = "torch-pruning"
STEPS = 50
"""In which its pruner would take all channels away; it is stopped at the MACs asked for."""
SLACK = 0.01
"""Of the dense MACs, that the peer may keep beyond those asked for: its steps are coarse."""
BATCH = 64
SCOPES = ("local", "global")

log = logging.getLogger("slimgate.benchmark")

kinds = torch_pruning.importance
IMPORTANCES: Mapping[str, Callable[[], object]] = {
    "random": kinds.RandomImportance,
    "magnitude L1": partial(kinds.MagnitudeImportance, p=1),
    "magnitude L2": partial(kinds.MagnitudeImportance, p=2),
    "bn_scale": kinds.BNScaleImportance,
    "lamp": kinds.LAMPImportance,
    "taylor": kinds.TaylorImportance,
    "geometric": kinds.FPGMImportance,
}


@dataclass(frozen=True)
class PeerResult:
    """What Torch-Pruning makes of a network at the MACs asked for."""

    asked: float
    macs_ratio: float | None
    network: nn.Module | None
    """None where what it made does not run, or never got so small."""
    reason: str
    seconds: float


def pruned_by_peer(
    prepared: Prepared,
    importance: str,
    scope: str,
    macs_ratios: Sequence[float],
    only: Collection[str] | None = None,
) -> Iterator[PeerResult]:
    """One result for each of `macs_ratios`, which fall, in one run of its iterative pruner.

    All layers but the classifier are its to prune, or the layers named in `only`. Taylor has the
    gradients of the whole calibration set at the dense network.
    """
    start = time.perf_counter()
    network = copy.deepcopy(prepared.real.network).eval().requires_grad_(True)
    torch.manual_seed(0)
    if importance == "taylor":
        _backward(network, prepared)
    macs_dense, left = prepared.prunable.macs, list(macs_ratios)
    try:
        pruner = _pruner(network, prepared.real, importance, scope, only)
        for _ in range(STEPS - 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pruner.step()
            ratio = _macs(network, prepared) / macs_dense
            while left and ratio <= left[0] + SLACK:
                seconds = time.perf_counter() - start
                found = copy.deepcopy(network).requires_grad_(False)
                yield PeerResult(left.pop(0), ratio, found, "", seconds)
            if not left:
                return
        reason = "its pruner stopped before these MACs"
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    for asked in left:
        log.info("%s %s %s at %.2f: %s", PEER, importance, scope, asked, reason)
        yield PeerResult(asked, None, None, reason, time.perf_counter() - start)


def recovered(network: nn.Module, prepared: Prepared, chain: Sequence[Recovery]) -> nn.Module:
    """A copy repaired by recoveries that need no plan of ours, such as batch norm's."""
    network = copy.deepcopy(network).eval()
    for recovery in chain:
        nothing = PruningPlan(layers={})
        recovery.recover(network, prepared.real.network, nothing, prepared.calibration)
    return network


def _pruner(
    network: nn.Module, real: Real, importance: str, scope: str, only: Collection[str] | None
) -> torch_pruning.BasePruner:
    layers = {n: m for n, m in network.named_modules() if isinstance(kind_of(m), LinearMap)}
    keep = {name for name in layers if only is not None and name not in only}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.BasePruner(
            network,
            real.example,
            importance=IMPORTANCES[importance](),
            global_pruning=scope == "global",
            pruning_ratio=1.0,
            iterative_steps=STEPS,
            ignored_layers=[layers[name] for name in {*keep, list(layers)[-1]}],
            in_channel_groups={},  # its defaults are dicts that it changes
            out_channel_groups={},
        )


def _macs(network: nn.Module, prepared: Prepared) -> int:
    return macs_model(network, prepared.real.example).total((), {})


def _backward(network: nn.Module, prepared: Prepared) -> None:
    """The gradient of the mean loss over the calibration set in every parameter."""
    calibration = prepared.calibration
    for inputs, targets in calibration.batches(BATCH):
        loss = cross_entropy(network(inputs), torch.from_numpy(targets))
        (loss * len(inputs) / calibration.fitted).backward()
