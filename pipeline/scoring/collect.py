"""Stats: everything a criterion may know of each layer, from one calibration pass."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.arrays import Float64, FloatArray, Targets
from pipeline.data.batches import regrouped
from pipeline.layers.torch_calls import Hook
from pipeline.network.groups import Group
from pipeline.network.layer_kinds import BatchNorm, FilterBank, filter_bank, kind_of
from pipeline.network.run import Loss, loss_of, outputs_of
from pipeline.network.walks import parts_of
from pipeline.scoring.channel_sums import ChannelMoments, by_channel
from pipeline.scoring.gradient_tracker import GradientSums, GradientTracker, readers_of
from pipeline.scoring.layer_stats import Gradient, LayerStats, Need, Norm, Place
from pipeline.scoring.relevance import Relevance
from profiles.errors import StageError

__all__ = ["Batch", "Float64", "LayerStats", "Loss", "Need", "collect", "stats_layers"]

Batch = tuple[FloatArray, Targets]

BATCH_SAMPLES = 32
"""Samples that count as one batch, however they are given: absolute gradients are those of batches
of this size.
"""


def collect(
    network: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Batch],
    loss: Loss,
    needs: frozenset[Need],
) -> dict[str, LayerStats]:
    """What `needs` asks for of every layer that writes or reads a group's channels, by its name.

    How the samples are cut into `batches` changes nothing.
    Works on a copy in eval mode, so neither weights nor buffers of `network` change. Without
    needs the network does not run, and nobody knows which batch norm follows which layer.
    A layer without batch norm has its output kept for the backward pass: one tensor more.
    Raises StageError for a layer the batches never reach, or whose values are not finite.
    """
    names = stats_layers(network, groups)
    if not needs:
        layers = dict(network.named_modules())
        return {name: _of_weights(name, filter_bank(layers[name]), None) for name in names}
    network = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    found: _Pass | None = None
    for inputs, targets in regrouped(batches, BATCH_SAMPLES):
        feed = torch.from_numpy(inputs).to(device)
        if found is None:
            found = _Pass(network, names, _norms(network, names, feed[:1]), needs)
        found.add(feed, targets, loss)
    if found is None:
        raise StageError("there are no calibration samples")
    stats = {name: found.stats(name) for name in names}
    _check(list(stats.values()))
    return stats


def stats_layers(network: nn.Module, groups: Sequence[Group]) -> list[str]:
    """The convolutions and linear layers that write or read a group, in the network's order."""
    members = {member.layer for group in groups for member in group.members}
    return [
        name
        for name, layer in network.named_modules()
        if name in members and isinstance(kind_of(layer), FilterBank)
    ]


def _check(layers: Sequence[LayerStats]) -> None:
    """Name the layer where numbers first stop being finite: backwards, for gradients."""
    for layer in layers:
        if not _finite(layer.input_square_mean, layer.output_variance):
            raise StageError(f"{layer.name}: its activations are not finite; check the data")
    for layer in reversed(layers):
        gradients = (layer.weight_gradient, *layer.offsets.values())
        if not _finite(layer.taylor, layer.offset, *(g.mean for g in gradients)):
            raise StageError(f"{layer.name}: its gradients are not finite; check the loss")
        if not _finite(layer.relevance):
            raise StageError(f"{layer.name}: its relevance is not finite; choose another criterion")


def _finite(*fields: Float64) -> bool:
    return all(bool(np.isfinite(field).all()) for field in fields)


def _norms(network: nn.Module, names: Sequence[str], feed: Tensor) -> dict[str, nn.Module]:
    """The batch norm of each layer that has one with a scale and running statistics."""
    layers = dict(network.named_modules())
    pairs = readers_of(network, names, BatchNorm.TYPES, feed)
    return {
        name: kind.layer
        for name, other in pairs.items()
        if isinstance(kind := kind_of(layers[other]), BatchNorm) and kind.foldable
    }


def _bias(layer: FilterBank) -> Tensor:
    """[out], zeros without one."""
    if layer.bias is not None:
        return layer.bias.detach()
    return layer.weight.new_zeros(layer.channels("out"))


def _of_weights(name: str, layer: FilterBank, norm: nn.Module | None) -> LayerStats:
    weight, inputs = layer.filters(layer.weight), layer.channels("in")
    found = LayerStats(name, _array(weight), inputs, layer.groups, _array(_bias(layer)))
    return replace(found, norm=_norm(norm)) if norm else found


def _running(norm: nn.Module) -> Tensor:
    return norm.get_buffer("running_var").double()


def _deviation(norm: nn.Module) -> Tensor:
    return (_running(norm) + float(getattr(norm, "eps", 0))).sqrt()


def _norm(norm: nn.Module) -> Norm:
    scale, shift = norm.get_parameter("weight"), norm.get_parameter("bias")
    mean = norm.get_buffer("running_mean")
    return Norm(_array(scale), _array(shift), _array(mean), _array(_deviation(norm)))


def _gradient_sums(layer: FilterBank, norm: nn.Module | None) -> GradientSums:
    bias = _bias(layer).double()
    if norm is None:
        filters = layer.filters(layer.weight).detach().double()
        one, zero = torch.ones_like(bias), torch.zeros_like(bias)
        return GradientSums(one, zero, bias, filters.norm(dim=1))
    scale, shift = (norm.get_parameter(name).detach().double() for name in ("weight", "bias"))
    slope = scale / _deviation(norm)
    intercept = shift - slope * norm.get_buffer("running_mean")
    return GradientSums(slope, intercept, shift, scale.abs())


class _Total:
    """A gradient's sums over the batches, and over their absolute values, in float64."""

    def __init__(self, like: Tensor) -> None:
        self._signed = torch.zeros_like(like, dtype=torch.float64)
        self._absolute = torch.zeros_like(self._signed)

    def add(self, value: Tensor) -> None:
        self._signed += value
        self._absolute += value.abs()

    def gradient(self, samples: int) -> Gradient:
        return Gradient(_array(self._signed.div_(samples)), _array(self._absolute.div_(samples)))


class _Gradients:
    """What the backward passes tell of one layer, batch by batch."""

    def __init__(self, layer: FilterBank, norm: nn.Module | None) -> None:
        self._layer, self._norm = layer, norm
        self._totals: dict[str, _Total] = {}
        self.sums = _gradient_sums(layer, norm)
        for parameter in layer.layer.parameters(recurse=False):
            parameter.requires_grad_(True)

    def end_of_batch(self) -> None:
        """Take this batch's gradients."""
        weight, parameter = self._layer.weight, self._layer.bias
        if weight.grad is None:
            return
        gradient, bias = self._layer.filters(weight.grad), _bias(self._layer)
        found = {"weight": gradient, "bias": torch.zeros_like(bias)}
        if parameter is not None and parameter.grad is not None:
            found["bias"] = parameter.grad
        # With c = <W, x> + b, the sum of dL/dc * c over positions; and so for batch norm.
        inner = (self._layer.filters(weight.detach()) * gradient).sum(1)
        found["output"] = found["norm"] = inner + bias * found["bias"]
        if self._norm is not None:
            scale, shift = (self._norm.get_parameter(n).detach() for n in ("weight", "bias"))
            mean, total = self._norm.get_buffer("running_mean"), self.sums.gradient
            found["shift"] = total
            found["scale"] = (self.sums.by_value - mean * total) / _deviation(self._norm)
            found["norm"] = scale * found["scale"] + shift * found["shift"]
        found["activation"] = self.sums.by_activation
        self.sums.begin_batch()
        for name, value in found.items():
            self._totals.setdefault(name, _Total(value)).add(value)

    def added_to(self, stats: LayerStats, samples: int) -> LayerStats:
        if not self._totals:
            raise StageError(
                f"{stats.name}: the loss of the calibration samples does not depend on this layer; "
                "choose a criterion without gradients"
            )
        gradients = {name: total.gradient(samples) for name, total in self._totals.items()}
        places: tuple[Place, ...] = ("activation", "output", "norm")
        return replace(
            stats,
            batches=samples / BATCH_SAMPLES,
            weight_gradient=gradients["weight"],
            bias_gradient=gradients["bias"],
            scale_gradient=gradients.get("scale", Gradient()),
            shift_gradient=gradients.get("shift", Gradient()),
            offsets={place: gradients[place] for place in places},
            taylor=_array(self.sums.taylor) / samples,
            offset=_array(self.sums.offset) / samples,
            offset_per_position=_array(self.sums.per_position) / samples,
        )


class _Pass:
    """One pass over the calibration samples: its state is gone with it."""

    def __init__(
        self,
        network: nn.Module,
        names: Sequence[str],
        norms: Mapping[str, nn.Module],
        needs: frozenset[Need],
    ) -> None:
        self._network, self._names, self._norms, self._needs = network, names, norms, needs
        modules = dict(network.named_modules())
        self._layers = {name: filter_bank(modules[name]) for name in names}
        self._samples = 0
        self._inputs = {name: ChannelMoments() for name in names}
        self._outputs = {name: ChannelMoments() for name in names}
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self._relevance = Relevance(network, names, norms) if "relevance" in needs else None
        self._gradients = {
            name: _Gradients(self._layers[name], norms.get(name))
            for name in names
            if "gradients" in needs
        }

    def add(self, feed: Tensor, targets: Targets, loss: Loss) -> None:
        self._samples += len(feed)
        try:
            if "gradients" in self._needs:
                self._backward(feed, targets, loss)
            elif "activations" in self._needs:
                tracker = GradientTracker({})
                with self._hooks(tracker), tracker, torch.no_grad():
                    outputs = outputs_of(self._network, feed)
                if not bool(outputs.isfinite().all()):
                    raise StageError("the network's output is not finite")
            if self._relevance is not None:
                self._relevance.add(feed, targets)
        except StageError as error:
            culprit = self._first_not_finite(feed)
            if not culprit:
                raise
            raise StageError(
                f"{culprit}: its output is not finite on the calibration samples ({error}); "
                "check the weights and the data"
            ) from error

    def stats(self, name: str) -> LayerStats:
        found = _of_weights(name, self._layers[name], self._norms.get(name))
        if "activations" in self._needs:
            found = self._with_activations(found)
        if "gradients" in self._needs:
            found = self._gradients[name].added_to(found, self._samples)
        if self._relevance is not None:
            total = self._relevance.total(name)
            found = replace(found, relevance=_array(total) / self._samples)
        return found

    def _backward(self, feed: Tensor, targets: Targets, loss: Loss) -> None:
        sums = {name: found.sums for name, found in self._gradients.items()}
        for part in parts_of(self._network, feed):  # what they hand to backward is much
            tracker = GradientTracker(sums)
            with self._hooks(tracker), torch.enable_grad():
                with tracker:
                    mean = loss_of(self._network, loss, feed[part], targets[part])
                    # The sum over samples, so that parts of any size weigh by their samples.
                    value = mean * len(feed[part])
                value.backward()
        for found in self._gradients.values():
            found.end_of_batch()
        self._network.zero_grad(set_to_none=True)

    @contextmanager
    def _hooks(self, tracker: GradientTracker) -> Iterator[None]:
        """For one forward pass: see every layer's input and output, and u for `tracker`."""
        moments, gradients = "activations" in self._needs, "gradients" in self._needs
        handles = []

        def layer_hook(name: str) -> Hook:
            last = self._layers[name].channels_last

            def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                if moments:
                    given = by_channel(args[0].detach(), last)
                    self._inputs[name].add(given, tracker.is_non_negative(args[0]))
                    if name not in self._norms:
                        self._outputs[name].add(by_channel(output.detach(), last))
                if gradients and name not in self._norms:
                    tracker.track(name, output, output, last)

            return hook

        def norm_hook(name: str) -> Hook:
            def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
                return tracker.track_normed(name, args[0], output) if gradients else None

            return hook

        for name in self._names:
            handles.append(self._layers[name].layer.register_forward_hook(layer_hook(name)))
        for name, norm in self._norms.items():
            handles.append(norm.register_forward_hook(norm_hook(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _first_not_finite(self, feed: Tensor) -> str:
        """The first leaf of the network whose output is not finite; empty when there is none."""
        found: list[str] = []

        def hook_of(name: str) -> Hook:
            def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
                if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                    found.append(name)

            return hook

        modules = self._network.named_modules()
        leaves = [(n, m) for n, m in modules if not list(m.children())]
        handles = [leaf.register_forward_hook(hook_of(name)) for name, leaf in leaves]
        with torch.no_grad():
            self._network(feed)
        for handle in handles:
            handle.remove()
        return found[0] if found else ""

    def _with_activations(self, stats: LayerStats) -> LayerStats:
        inputs, norm = self._inputs[stats.name], self._norms.get(stats.name)
        outputs = self._outputs[stats.name].variance() if norm is None else _running(norm)
        if not inputs.count:
            raise StageError(f"{stats.name}: the calibration samples never reach this layer")
        return replace(
            stats,
            input_mean=_array(inputs.total / inputs.count),
            input_variance=_array(inputs.variance()),
            input_abs_mean=_array(inputs.absolute / inputs.count),
            input_square_mean=_array(inputs.square / inputs.count),
            output_variance=_array(outputs),
        )


def _array(values: Tensor) -> Float64:
    return values.detach().cpu().double().numpy()
