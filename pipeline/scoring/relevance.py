"""Layer-wise relevance propagation: how much of the true class's logit each input carries.

Every rule is written as a forward value whose gradient times its input is the relevance
(Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019): the value stays the
same, so the network runs as always, and sums, branches and pooling split relevance by share.

- convolution, linear: the z+ rule, R_in = x * W+ . (R / z+), z+ the sum of the positive x * w;
  with batch norm after it, the sign of its scale counts to w. Biases take no share.
- activation, normalisation: the identity, R_in = R.
- everything else (sums, pooling, concatenation, products, attention): gradient times input.
  A product, as a squeeze-and-excitation gate, so hands its relevance to both factors.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import Targets
from pipeline.data.batches import check_labels
from pipeline.layers.torch_calls import ACTIVATIONS, Call, TorchCalls
from pipeline.network.layer_kinds import FilterBank, kind_of
from pipeline.network.run import outputs_of
from pipeline.scoring.channel_sums import by_channel
from profiles.errors import ConfigError, StageError

IDENTITY = ACTIVATIONS | {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
SMALLEST = 1e-12
"""Divisors nearer to zero pass no relevance on."""


class Relevance:
    """Sums of abs(R) over the calibration samples, at the inputs of the named layers.

    R of a sample starts as 1 at its true class's logit, so that all samples weigh the same.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str], norms: Mapping[str, nn.Module]
    ) -> None:
        self._network, self._names = network, frozenset(names)
        self._totals: dict[str, Tensor] = {}
        self._halves: dict[str, tuple[nn.Module, nn.Module]] = {}
        self._layers = {
            name: kind
            for name, layer in network.named_modules()
            if isinstance(kind := kind_of(layer), FilterBank)
        }
        for name, layer in self._layers.items():
            norm = norms.get(name)
            signs = norm.get_parameter("weight").detach().sign() if norm else None
            self._halves[name] = (_half(layer, signs, 1), _half(layer, signs, -1))

    def total(self, name: str) -> Tensor:
        """[in]: the sum over samples and positions of abs(R)."""
        if name not in self._totals:
            raise StageError(f"{name}: no relevance reaches this layer; choose another criterion")
        return self._totals[name]

    def add(self, feed: Tensor, targets: Targets) -> None:
        """Propagate one batch. Raises ConfigError for targets that are not class labels."""
        feed = feed.detach().requires_grad_()
        handles = [
            kind.layer.register_forward_hook(self._rule(name))
            for name, kind in self._layers.items()
        ]
        try:
            with torch.enable_grad(), _IdentityRule():
                outputs = outputs_of(self._network, feed)
        finally:
            for handle in handles:
                handle.remove()
        chosen = _true_logits(outputs, targets)
        if not bool(chosen.isfinite().all()):
            raise StageError("the true class's logit is not finite")
        size = chosen.detach().abs().clamp(min=SMALLEST)
        start = torch.where(chosen.detach() < 0, -1 / size, 1 / size)
        if chosen.requires_grad:
            torch.autograd.grad(chosen, feed, start, allow_unused=True)

    def _rule(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        plus, minus = self._halves[name]
        last = self._layers[name].channels_last

        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            if not x.requires_grad:
                return output
            alone = x.view_as(x)  # its gradient comes from this layer only
            if name in self._names:
                alone.register_hook(self._reader(name, x.detach(), last))
            positive: Tensor = plus(alone.clamp(min=0))
            if bool((x < 0).any()):
                positive = positive + minus(alone.clamp(max=0))
            return _same_value(positive, output.detach())

        return hook

    def _reader(self, name: str, x: Tensor, last: bool) -> Callable[[Tensor], None]:
        def backward(gradient: Tensor) -> None:
            found = by_channel((x * gradient.detach()).abs(), last).sum(2).double().sum(0)
            self._totals[name] = self._totals.get(name, torch.zeros_like(found)) + found

        return backward


class _IdentityRule(TorchCalls):
    """Activations and normalisations hand on their relevance unchanged."""

    def on_call(self, call: Call) -> object:
        first = call.first
        if call.name not in IDENTITY or first is None or not first.requires_grad:
            return call.run()
        with torch.no_grad():
            after = call.run_on(first.detach().clone())
        if not isinstance(after, Tensor) or after.shape != first.shape:
            return call.run()
        if not call.is_in_place:
            return _same_value(first, after)
        ratio = _ratio(after, first.detach())
        rest = after - first.detach() * ratio
        return first.mul_(ratio).add_(rest)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    silent = below.abs() < SMALLEST
    return torch.where(silent, 0, above / torch.where(silent, 1, below))


def _same_value(part: Tensor, value: Tensor) -> Tensor:
    """`value`, but with the gradient of `part` * (value / part), the fraction held constant."""
    scaled = part * _ratio(value, part.detach())
    return scaled + (value - scaled.detach())


def _half(layer: FilterBank, signs: Tensor | None, sign: int) -> nn.Module:
    """A copy of `layer` with its positive (or negative) weights only, and without a bias."""
    half = copy.deepcopy(layer.layer).requires_grad_(False)
    weight = half.get_parameter("weight")
    if signs is not None:
        weight.mul_(layer.at_weights(signs))
    weight.clamp_(min=0) if sign > 0 else weight.clamp_(max=0)
    half.register_parameter("bias", None)
    return half


def _true_logits(outputs: Tensor, targets: Targets) -> Tensor:
    """[n, ...]: the output of each target's class."""
    shape = (len(outputs), *outputs.shape[2:])
    if not np.issubdtype(targets.dtype, np.integer) or targets.shape != shape:
        raise ConfigError(
            f"lrp needs class labels {list(shape)}, found {targets.dtype} {list(targets.shape)}: "
            "choose another criterion"
        )
    check_labels(targets, outputs.shape[1])
    labels = torch.from_numpy(targets).to(outputs.device)
    return outputs.gather(1, labels[:, None]).squeeze(1)
