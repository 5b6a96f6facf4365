"""Statistics of one calibration pass, against the definitions they stand for."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import NETWORKS, Chain, Residual, trained
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn import functional

from pipeline.criteria import Criterion, group_scores
from pipeline.criteria.magnitude import Magnitude
from pipeline.criteria.pro import Pro
from pipeline.criteria.random import Random
from pipeline.criteria.taylor import Taylor
from pipeline.data import FloatArray, Targets, batches
from pipeline.groups import Group, find_groups
from pipeline.stats import Float64, LayerStats, collect
from pipeline.task import Task, cross_entropy
from profiles.errors import ConfigError, StageError

SAMPLES = 24


class Samples:
    """Random labelled inputs, 3 x 8 x 8, of 4 classes."""

    def __init__(self, count: int = SAMPLES, repeat: int = 1) -> None:
        generator = np.random.default_rng(0)
        inputs = generator.standard_normal((count, 3, 8, 8)).astype(np.float32)
        self._inputs = np.concatenate([inputs] * repeat)
        self.targets = np.concatenate([generator.integers(0, 4, count)] * repeat)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int, /) -> tuple[FloatArray, np.int64]:
        return self._inputs[index], self.targets[index]


def task_of(network: nn.Module, data: Samples | None = None) -> Task:
    samples = data or Samples()
    return Task(lambda: network, samples, samples)


def feeds(data: Samples, size: int = 10) -> Iterator[tuple[FloatArray, Targets]]:
    return batches(data, range(len(data)), size)


def stats_of(
    network: nn.Module, data: Samples | None = None, size: int = 10
) -> tuple[tuple[Group, ...], dict[str, LayerStats]]:
    data = data or Samples()
    groups = find_groups(network, torch.from_numpy(data[0][0])[None]).groups
    return groups, collect(network, groups, feeds(data, size), task_of(network))


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


class Activations(nn.Module):
    """Every way to call an activation: functional, in place, one module twice, method, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(6, 5)
        self.fc = nn.Linear(5, 4)
        self.sigmas: list[Callable[[Tensor], Tensor]] = [
            self.relu,
            lambda x: functional.relu(x, inplace=True),
            lambda x: x.relu_(),
            functional.gelu,
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = self.sigmas[0](self.norms[0](self.convs[0](x)))
        x = self.sigmas[1](self.norms[1](self.convs[1](x)))
        x = self.sigmas[2](self.convs[2](x))
        x = self.sigmas[3](self.hidden(x.mean((2, 3))))
        logits: Tensor = self.fc(x)
        return logits


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
        np.testing.assert_allclose(stats[name].offset_gradients, gradient, rtol=2e-4, atol=1e-7)


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
    np.testing.assert_allclose(stats[name].offset_gradients, expected, rtol=1e-3, atol=1e-6)


def test_filters_are_the_norms_scales_where_there_is_one_and_weights_elsewhere() -> None:
    network = trained(Chain)
    _, stats = stats_of(network)
    probe = copy.deepcopy(network)
    inputs, targets = next(feeds(Samples(), SAMPLES))
    cross_entropy(probe(torch.from_numpy(inputs)), torch.from_numpy(targets)).backward()
    gamma, weight = probe.get_parameter("bn1.weight"), probe.get_parameter("conv2.weight")
    assert gamma.grad is not None
    assert weight.grad is not None
    np.testing.assert_allclose(stats["conv1"].filters[:, 0], gamma.detach().numpy())
    np.testing.assert_allclose(
        stats["conv1"].filter_gradients[:, 0], gamma.grad.numpy(), rtol=1e-3, atol=1e-7
    )
    assert stats["conv2"].filters.shape == (6, 8 * 9)
    np.testing.assert_allclose(
        stats["conv2"].filter_gradients, weight.grad.flatten(1).numpy(), rtol=1e-3, atol=1e-6
    )


def test_taylor_is_the_mean_of_absolute_changes_sample_by_sample() -> None:
    network = trained(Chain)
    _, whole = stats_of(network)
    alone = []
    for index in range(SAMPLES):
        single = batches(Samples(), [index], 1)
        groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
        alone.append(collect(network, groups, single, task_of(network))["conv1"].taylor)
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
    _, once = stats_of(network, Samples(), size=24)
    _, twice = stats_of(network, Samples(repeat=2), size=9)
    for name, layer in once.items():
        other = twice[name]
        for field in ("filter_gradients", "offset_gradients", "taylor"):
            want, got = getattr(layer, field), getattr(other, field)
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("step_size", [0.01, 0.1, 1.0])
def test_pro_ranks_as_its_expansion_for_a_small_step(
    kind: type[nn.Module], step_size: float
) -> None:
    """log s = lambda S0 + O(lambda^2), S0 = d / norm(F) - <F, G> / norm(F)^2."""
    _, stats = stats_of(trained(kind))
    for layer in stats.values():
        norm = np.linalg.norm(layer.filters, axis=1)
        inner = (layer.filters * layer.filter_gradients).sum(1)
        expansion = layer.offset_gradients / norm - inner / norm**2
        score = Pro(step_size=step_size).score(layer)
        least = 0.97 if step_size < 1 else 0.7
        assert kendalltau(score, expansion).statistic >= least


def hand_made(
    filters: list[list[float]], gradients: list[list[float]], d: list[float]
) -> LayerStats:
    array = np.array(filters)
    return LayerStats("hand", array, array, np.array(gradients), np.array(d), np.zeros(len(array)))


def test_pro_is_equation_4_by_hand() -> None:
    layer = hand_made([[3, 4], [1, 0], [0, 0]], [[10, 0], [0, 0], [5, 5]], [-20, 5, 1])
    scores = Pro(step_size=0.1).score(layer)
    # norm([2, 4]) / (5 + 2); 1 / (1 - 0.5); a filter of zeros is the origin.
    np.testing.assert_allclose(scores, [20**0.5 / 7, 2.0, 0.0])


def test_pro_is_one_without_gradients_and_finite_where_the_height_vanishes() -> None:
    still = hand_made([[3, 4]], [[0, 0]], [0])
    assert Pro().score(still) == pytest.approx([1.0])
    vanishing = hand_made([[3, 4]], [[0, 0]], [50])
    assert np.isfinite(Pro(step_size=0.1).score(vanishing)).all()


def test_magnitude_is_the_norm_of_the_filters() -> None:
    layer = hand_made([[3, -4]], [[0, 0]], [0])
    assert Magnitude().score(layer) == pytest.approx([5])
    assert Magnitude(order=1).score(layer) == pytest.approx([7])


def test_random_scores_repeat_by_seed_and_differ_by_layer() -> None:
    layer = hand_made([[1.0]] * 8, [[0.0]] * 8, [0.0] * 8)
    assert np.array_equal(Random(seed=1).score(layer), Random(seed=1).score(layer))
    assert not np.array_equal(Random(seed=1).score(layer), Random(seed=2).score(layer))
    assert not np.array_equal(Random().score(layer), Random().score(replace(layer, name="other")))


@pytest.mark.parametrize("criterion", [Pro(), Magnitude(), Taylor(), Random()])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_group_gets_one_finite_score_a_unit(
    kind: type[nn.Module], criterion: Criterion
) -> None:
    groups, stats = stats_of(trained(kind))
    for group in groups:
        scores = group_scores(criterion, group, stats)
        assert scores.shape == (group.size,)
        assert np.isfinite(scores).all()


def test_coupled_members_are_aggregated_by_their_mean() -> None:
    groups, stats = stats_of(trained(Residual))
    stream = next(group for group in groups if group.size == 8)
    each = [Magnitude().score(stats[name]) for name in ("stem", "outer.0", "outer.1")]
    np.testing.assert_allclose(group_scores(Magnitude(), stream, stats), np.mean(each, axis=0))


def test_a_label_beyond_the_outputs_is_a_clear_error() -> None:
    network = trained(Chain)
    data = Samples()
    data.targets[5] = 4
    with pytest.raises(ConfigError, match="label 4 is out of range: the network has 4 outputs"):
        stats_of(network, data)


def test_no_samples_and_a_loss_of_nan_are_clear_errors() -> None:
    network = trained(Chain)
    groups = find_groups(network, torch.zeros(1, 3, 8, 8)).groups
    with pytest.raises(StageError, match="no calibration samples"):
        collect(network, groups, iter(()), task_of(network))
    nn.init.constant_(network.get_parameter("fc.weight"), float("nan"))
    with pytest.raises(StageError, match="the loss is nan"):
        collect(network, groups, feeds(Samples()), task_of(network))
