"""Statistics of one calibration pass, against the definitions they stand for."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from activations import Activations
from networks import NETWORKS, Chain, Concat, Grouped, Residual, trained
from random_samples import ALL, SAMPLES, Samples, feeds, stats_of
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import batches
from pipeline.network.groups import find_groups
from pipeline.scoring.collect import BATCH_SAMPLES, Float64, LayerStats, collect
from pipeline.task import cross_entropy


class Injected(nn.Module):
    """Eq. 5: psi(x) = sigma(x) + (D x - Dhat x), one D a channel, D = Dhat = norm(F)."""

    def __init__(self, sigma: Callable[[Tensor], Tensor], norm: Tensor, last: bool) -> None:
        super().__init__()
        shape = norm.shape if last else (-1, *[1] * 2)
        self.d = nn.Parameter(norm.detach().clone().reshape(shape))
        self.hat = self.d.detach().clone()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.sigma(x) + (self.d * x - self.hat * x)


def injected_gradients(network: Activations, data: Samples) -> list[Float64]:
    """dL/dD of the extended network, mean over samples."""
    network = copy.deepcopy(network).double()
    owners = [*network.norms, network.convs[2], network.hidden]
    plain: list[Callable[[Tensor], Tensor]] = [
        network.relu,
        functional.relu,
        functional.relu,
        functional.gelu,
    ]
    extended = []
    for owner, sigma in zip(owners, plain, strict=True):
        weight = owner.get_parameter("weight")
        norm = weight.reshape(len(weight), -1).norm(dim=1)
        extended.append(Injected(sigma, norm, last=owner is network.hidden))
    network.sigmas = list(extended)
    inputs, targets = next(feeds(data, len(data)))
    before = network(torch.from_numpy(inputs).double())
    cross_entropy(before, torch.from_numpy(targets)).backward()
    found = []
    for module in extended:
        assert module.d.grad is not None
        found.append(module.d.grad.flatten().numpy())
    return found


def test_hooks_give_the_gradient_of_the_injected_parameter() -> None:
    torch.manual_seed(0)
    network = Activations().eval()
    for norm in network.norms:
        nn.init.uniform_(norm.get_parameter("weight"), 0.5, 1.5)
    expected = injected_gradients(network, Samples())
    _, stats = stats_of(network, size=7)
    layers = ("convs.0", "convs.1", "convs.2", "hidden")
    for name, gradient in zip(layers, expected, strict=True):
        np.testing.assert_allclose(stats[name].offset_gradients(), gradient, rtol=2e-4, atol=1e-7)


class Between(nn.Module):
    """conv - something that overwrites nothing - relu - fc."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.between = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), between

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(functional.relu(self.between(self.conv(x))).mean((2, 3)))
        return logits


def beside_mean(x: Tensor) -> Tensor:
    x.mean((2, 3), True)
    return x


@pytest.mark.parametrize(
    "between",
    [beside_mean, lambda x: functional.dropout(x, 0.5, False, True), lambda x: x.contiguous()],
    ids=["mean, True by position", "dropout in place", "contiguous"],
)
def test_what_overwrites_nothing_hides_no_activation(between: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    network = Between(between).eval()
    plain = copy.deepcopy(network)
    plain.between = nn.Identity()
    _, found = stats_of(network)
    _, expected = stats_of(plain)
    for one, two in zip(values(found["conv"]), values(expected["conv"]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    with_sigma, without = (found["conv"].offset_gradients(p) for p in ("activation", "norm"))
    assert not np.allclose(with_sigma, without, rtol=1e-3)


@pytest.mark.parametrize("name", ["outer.0", "outer.1"])
def test_a_layer_that_feeds_a_residual_sum_has_the_identity_for_activation(name: str) -> None:
    network = trained(Residual)
    _, stats = stats_of(network)
    # For u = gamma * c + beta, sum of dL/du * u is gamma dL/dgamma + beta dL/dbeta.
    probe = copy.deepcopy(network)
    inputs, targets = next(feeds(Samples(), SAMPLES))
    cross_entropy(probe(torch.from_numpy(inputs)), torch.from_numpy(targets)).backward()
    norm = probe.get_submodule(name.replace("outer", "outer_bn"))
    gamma, beta = norm.get_parameter("weight"), norm.get_parameter("bias")
    assert gamma.grad is not None
    assert beta.grad is not None
    expected = (gamma * gamma.grad + beta * beta.grad).detach().double().numpy()
    np.testing.assert_allclose(stats[name].offset_gradients(), expected, rtol=1e-3, atol=1e-6)


def test_filters_are_the_norms_scales_where_there_is_one_and_weights_elsewhere() -> None:
    network = trained(Chain)
    _, stats = stats_of(network)
    probe = copy.deepcopy(network)
    inputs, targets = next(feeds(Samples(), SAMPLES))
    cross_entropy(probe(torch.from_numpy(inputs)), torch.from_numpy(targets)).backward()
    gamma, weight = probe.get_parameter("bn1.weight"), probe.get_parameter("conv2.weight")
    assert gamma.grad is not None
    assert weight.grad is not None
    np.testing.assert_allclose(stats["conv1"].filters()[:, 0], gamma.detach().numpy())
    np.testing.assert_allclose(
        stats["conv1"].filter_gradients()[:, 0], gamma.grad.numpy(), rtol=1e-3, atol=1e-7
    )
    assert stats["conv2"].filters().shape == (6, 8 * 9)
    np.testing.assert_allclose(
        stats["conv2"].filter_gradients(), weight.grad.flatten(1).numpy(), rtol=1e-3, atol=1e-6
    )


def test_taylor_is_the_mean_of_absolute_changes_sample_by_sample() -> None:
    network = trained(Chain)
    _, whole = stats_of(network)
    alone = []
    for index in range(SAMPLES):
        single = batches(Samples(), [index], 1)
        groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
        alone.append(collect(network, groups, single, cross_entropy, ALL)["conv1"].taylor)
    np.testing.assert_allclose(whole["conv1"].taylor, np.mean(alone, axis=0), rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_and_buffers_are_unchanged_and_no_gradient_is_left(kind: type[nn.Module]) -> None:
    network = trained(kind).train()
    before = copy.deepcopy(network.state_dict())
    stats_of(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_samples_twice_give_the_same_statistics(kind: type[nn.Module]) -> None:
    network = trained(kind)
    _, once = stats_of(network, Samples(), size=SAMPLES)
    _, twice = stats_of(network, Samples(repeat=2), size=9)
    for name, layer in once.items():
        for one, two in zip(values(layer), values(twice[name]), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def values(layer: LayerStats) -> list[Float64]:
    """Everything that does not depend on how the samples are cut into batches."""
    return [
        layer.weight_gradient.mean,
        layer.bias_gradient.mean,
        layer.scale_gradient.mean,
        *(gradient.mean for gradient in layer.offsets.values()),
        layer.taylor,
        layer.offset,
        layer.offset_per_position,
        layer.input_mean,
        layer.input_variance,
        layer.input_abs_mean,
        layer.input_square_mean,
        layer.output_variance,
        layer.relevance,
    ]


def by_position(network: nn.Module, layer: str, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """c, u and dL/du of every sample, [n, channels, positions], float64."""
    network = copy.deepcopy(network).double()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output.retain_grad()
            seen[name] = output
            return output.clone()  # what follows may overwrite it

        return hook

    network.get_submodule(layer).register_forward_hook(keep("c"))
    network.get_submodule(norm).register_forward_hook(keep("u"))
    inputs, targets = next(feeds(Samples(), SAMPLES))
    outputs = network(torch.from_numpy(inputs).double())
    (cross_entropy(outputs, torch.from_numpy(targets)) * SAMPLES).backward()
    c, u = (seen.get(name, seen["u"]) for name in "cu")
    assert u.grad is not None
    return c.detach().flatten(2), u.detach().flatten(2), u.grad.flatten(2)


LAYERS = [(Residual, "inner.0", "inner_bn.0"), (Residual, "outer.1", "outer_bn.1")]


@pytest.mark.parametrize(("kind", "layer", "norm"), LAYERS)
def test_offset_and_the_places_of_d_are_what_they_say(
    kind: type[nn.Module], layer: str, norm: str
) -> None:
    network = trained(kind)
    nn.init.constant_(network.get_submodule(norm).get_parameter("weight")[:1].detach(), -0.7)
    _, stats = stats_of(network, size=7)
    c, u, gradient = by_position(network, layer, norm)
    scale, shift, deviation = (
        torch.from_numpy(value)[:, None]
        for value in (
            np.array(network.get_submodule(norm).get_parameter("weight").detach()),
            np.array(network.get_submodule(norm).get_parameter("bias").detach()),
            np.sqrt(np.array(network.get_submodule(norm).get_buffer("running_var")) + 1e-5),
        )
    )
    each = gradient * (scale.abs() * c - (u - shift))
    found = stats[layer]
    close = np.testing.assert_allclose
    close(found.offset, each.sum(2).abs().mean(0), rtol=1e-3)
    close(found.offset_per_position, each.abs().sum(2).mean(0), rtol=1e-3)
    close(found.taylor, (gradient * u).sum(2).abs().mean(0), rtol=1e-3)
    at_norm = (gradient * u).sum(2).mean(0)
    at_output = (gradient * scale / deviation * c).sum(2).mean(0)
    close(found.offset_gradients("norm"), at_norm, rtol=1e-3, atol=1e-6)
    close(found.offset_gradients("output"), at_output, rtol=1e-3, atol=1e-6)
    folded = found.weight * (scale / deviation).numpy()
    # <F, dL/dF> of the folded filter is dL/du * u without the mean and the shift.
    inner = (folded * found.filter_gradients("folded")).sum(1)
    close(inner, at_output, rtol=1e-3, atol=1e-6)


def test_without_batch_norm_offset_is_that_of_the_filter_and_its_bias() -> None:
    network = trained(Chain)
    _, stats = stats_of(network, size=7)
    _, u, gradient = by_position(network, "conv2", "conv2")
    conv = network.get_submodule("conv2")
    norm = conv.get_parameter("weight").detach().flatten(1).norm(dim=1)[:, None]
    each = gradient * (norm * u - (u - conv.get_parameter("bias").detach()[:, None]))
    np.testing.assert_allclose(stats["conv2"].offset, each.sum(2).abs().mean(0), rtol=1e-3)
    np.testing.assert_allclose(
        stats["conv2"].offset_per_position, each.abs().sum(2).mean(0), rtol=1e-3
    )
    for place in ("output", "norm"):
        found = stats["conv2"].offset_gradients(place)
        np.testing.assert_allclose(found, (gradient * u).sum(2).mean(0), rtol=1e-3, atol=1e-6)


def test_absolute_gradients_are_means_over_batches_and_sums_count_them() -> None:
    network = trained(Chain)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    two = Samples(2 * BATCH_SAMPLES)
    _, stats = stats_of(network, two)
    whole = [range(i, i + BATCH_SAMPLES) for i in (0, BATCH_SAMPLES)]
    halves = [
        collect(network, groups, batches(two, half, BATCH_SAMPLES), cross_entropy, ALL)
        for half in whole
    ]
    signed = [half["conv1"].filter_gradients("own") for half in halves]
    absolute = stats["conv1"].filter_gradients("own", "absolute")
    np.testing.assert_allclose(absolute, np.abs(signed).mean(0), rtol=1e-3, atol=1e-7)
    signed = [half["conv1"].offset_gradients() for half in halves]
    absolute = stats["conv1"].offset_gradients("activation", "absolute")
    np.testing.assert_allclose(absolute, np.abs(signed).mean(0), rtol=1e-3, atol=1e-7)
    summed = stats["conv1"].offset_gradients("activation", "sum")
    np.testing.assert_allclose(summed, np.sum(signed, axis=0), rtol=1e-3, atol=1e-6)


class Tokens(nn.Module):
    """A linear pair on tokens [n, 16, 3], as a transformer's, with its own norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.fc1 = nn.Linear(3, 10)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(10, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[:, :, ::2, ::2].flatten(2).transpose(1, 2)
        tokens = tokens + self.fc2(self.act(self.fc1(self.norm(tokens))))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def test_linear_layers_on_tokens_have_statistics_of_each_feature() -> None:
    torch.manual_seed(0)
    network = Tokens().eval()
    _, stats = stats_of(network)
    inputs, targets = next(feeds(Samples(), SAMPLES))
    hidden: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].retain_grad()
        hidden.append(args[0])

    network.act.register_forward_pre_hook(keep)
    network.fc2.register_forward_pre_hook(keep)
    cross_entropy(network(torch.from_numpy(inputs)), torch.from_numpy(targets)).backward()
    u, a = hidden
    assert u.grad is not None
    assert a.grad is not None
    close = np.testing.assert_allclose
    taylor = (u.grad * u).sum(1).abs().sum(0)  # dL/du of the mean over samples
    close(stats["fc1"].taylor, taylor.detach(), rtol=1e-3)
    close(stats["fc1"].offset_gradients(), (a.grad * u).sum((0, 1)).detach(), rtol=1e-3, atol=1e-7)
    flat = a.detach().double().flatten(0, 1)
    found = stats["fc2"]
    close(found.input_mean, flat.mean(0), rtol=1e-4)
    close(found.input_variance, flat.var(0, correction=0), rtol=1e-4)
    close(found.input_abs_mean, flat.abs().mean(0), rtol=1e-4)
    close(found.input_square_mean, flat.square().mean(0), rtol=1e-4)
    close(stats["fc1"].output_variance, u.detach().flatten(0, 1).var(0, correction=0), rtol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [(Grouped, "grouped"), (Concat, "mix")])
def test_weights_are_told_apart_by_input_in_grouped_and_transposed_layers(
    kind: type[nn.Module], name: str
) -> None:
    network = trained(kind)
    _, stats = stats_of(network, needs=frozenset())
    found, layer = stats[name], network.get_submodule(name)
    inputs = found.inputs
    # A network of this layer alone: silence every input but one, and see what is left.
    for i in range(inputs):
        x = torch.zeros(1, inputs, 5, 5)
        x[0, i, 2, 2] = 1
        with torch.no_grad():
            seen = layer(x) - layer(torch.zeros_like(x))
        weights = np.sort(np.abs(found.weight_by_input()[i]))
        response = np.sort(seen.abs().flatten().double().numpy())[-len(weights) :]
        np.testing.assert_allclose(weights, response, atol=1e-6)
    spread = found.at_weights(np.arange(inputs, dtype=np.float64))
    for i in range(inputs):
        assert (spread == i).sum() == found.weight_by_input().shape[1]
        np.testing.assert_allclose(
            np.sort(found.weight[spread == i]), np.sort(found.weight_by_input()[i])
        )


def test_the_variance_of_an_output_is_what_its_batch_norm_learned_of_it() -> None:
    network = trained(Chain)
    _, stats = stats_of(network, needs=frozenset({"activations"}))
    learned = network.get_buffer("bn1.running_var")
    np.testing.assert_allclose(stats["conv1"].output_variance, learned)
    inputs, _ = next(feeds(Samples(), SAMPLES))
    before = list(network.children())[:3]
    with torch.no_grad():
        x = functional.relu(before[1](before[0](torch.from_numpy(inputs))))
        c = before[2](x).double()
    seen = c.transpose(0, 1).flatten(1).var(1, correction=0)
    np.testing.assert_allclose(stats["conv2"].output_variance, seen, rtol=1e-4)
    np.testing.assert_allclose(stats["conv2"].input_mean, x.double().mean((0, 2, 3)), rtol=1e-4)


def test_what_is_not_asked_for_is_empty() -> None:
    _, stats = stats_of(trained(Chain), needs=frozenset({"activations"}))
    assert stats["conv1"].input_mean.size == 3
    assert not stats["conv1"].taylor.size
    assert not stats["conv1"].weight_gradient
    assert not stats["conv1"].relevance.size
    assert list(stats) == ["conv1", "conv2", "fc"]
