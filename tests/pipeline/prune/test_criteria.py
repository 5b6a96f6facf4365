"""Criteria: every file of the folder on real networks, and each one's formula by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import NETWORKS, Chain, Concat, Residual, trained
from random_samples import Samples, feeds, stats_of
from scipy.stats import kendalltau
from torch import Tensor, nn

from pipeline.network import walks
from pipeline.network.groups import find_groups
from pipeline.prune.criteria import Criterion, group_scores
from pipeline.prune.criteria.activation import Activation
from pipeline.prune.criteria.beta_rank import BetaRank
from pipeline.prune.criteria.bn_scale import BnScale
from pipeline.prune.criteria.fluctuation import Fluctuation
from pipeline.prune.criteria.geometric import Geometric
from pipeline.prune.criteria.gradient_magnitude import GradientMagnitude
from pipeline.prune.criteria.lrp import Lrp
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.offset import Offset
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.random import Random
from pipeline.prune.criteria.taylor import Taylor
from pipeline.scoring.collect import BATCH_SAMPLES, Float64, LayerStats, collect
from pipeline.scoring.layer_stats import Accumulation, Filter, Gradient, Norm, Place
from pipeline.task import cross_entropy
from profiles.errors import StageError
from profiles.plugins import plugin, plugin_names

CRITERIA = [
    name for name in plugin_names("pipeline.prune.criteria") if name not in ("reconstruction",)
]
"""`reconstruction` scores groups from second moments, not layers from Stats."""
NORMED = {"conv1", "expand"}
"""Groups outside of Residual, all of whose layers have a batch norm."""
VARIANTS = [
    Pro(filter="scale_shift", place="norm", accumulation="sum"),
    Pro(filter="own", place="output", accumulation="absolute"),
    Pro(filter="folded", place="output", accumulation="absolute"),
    Offset(per_position=True),
    Magnitude(order=1),
]


def criterion(name: str) -> Criterion:
    # mypy: an abstract class stands for its plugins
    return plugin("pipeline.prune.criteria", name, Criterion)()  # type: ignore[type-abstract]


def scores_on(
    kind: type[nn.Module], one: Criterion, data: Samples, size: int = 24
) -> list[Float64]:
    groups, stats = stats_of(trained(kind), data, size, one.needs)
    return [group_scores(one, group, stats) for group in groups]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", CRITERIA)
def test_every_group_gets_one_finite_score_a_unit(name: str, kind: type[nn.Module]) -> None:
    one = criterion(name)
    groups, stats = stats_of(trained(kind), needs=one.needs)
    assert groups
    for group in groups:
        if name == "bn_scale" and not (kind is Residual or group.name in NORMED):
            with pytest.raises(StageError, match="has no batch norm, so bn_scale cannot"):
                group_scores(one, group, stats)
            continue
        scores = group_scores(one, group, stats)
        assert scores.shape == (group.size,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        assert len(np.unique(scores)) > 1


@pytest.mark.parametrize("one", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_reading_gives_finite_scores(kind: type[nn.Module], one: Criterion) -> None:
    for scores in scores_on(kind, one, Samples()):
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_the_same_samples_twice_give_the_same_scores(name: str) -> None:
    once = scores_on(Concat, criterion(name), Samples(BATCH_SAMPLES))
    twice = scores_on(Concat, criterion(name), Samples(BATCH_SAMPLES, repeat=2))
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3)


@pytest.mark.parametrize("one", [*map(criterion, CRITERIA), *VARIANTS, Pro(accumulation="sum")])
def test_scores_do_not_depend_on_how_samples_are_cut_into_batches(one: Criterion) -> None:
    data = Samples(40)  # a whole batch and a part of one
    whole = scores_on(Residual, one, data, 40)
    for size in (1, 3, 7):
        for expected, found in zip(whole, scores_on(Residual, one, data, size), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("at_a_time", [1, 5])
@pytest.mark.parametrize("one", [*map(criterion, CRITERIA), *VARIANTS, Pro(accumulation="sum")])
def test_scores_do_not_depend_on_how_many_samples_fit_into_memory(
    one: Criterion, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data, seen = trained(Residual), Samples(40), set()
    groups, whole = stats_of(network, data, needs=one.needs)
    most = at_a_time * walks.largest_output(network, torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(walks, "LARGEST_BYTES", most)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(len(outputs))
        return cross_entropy(outputs, targets)

    stats = collect(network, groups, feeds(data, 24), loss, one.needs)
    for group in groups:
        expected, found = (group_scores(one, group, stats) for stats in (whole, stats))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert max(seen, default=at_a_time) == at_a_time


def test_a_smaller_last_batch_counts_by_its_samples_in_a_sum() -> None:
    _, stats = stats_of(trained(Residual), Samples(40))
    for layer in stats.values():
        mean, total = (layer.filter_gradients("own", by) for by in ("mean", "sum"))
        np.testing.assert_allclose(total, mean * 1.25)


def test_weights_alone_do_not_run_the_network() -> None:
    groups = find_groups(trained(Chain), torch.zeros(1, 3, 8, 8)).groups
    broken = trained(Chain)
    broken.forward = None  # type: ignore[assignment, method-assign, unused-ignore]
    stats = collect(broken, groups, iter(()), cross_entropy, Magnitude().needs)
    assert np.isfinite(group_scores(Magnitude(), groups[0], stats)).all()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("step_size", [0.01, 0.1, 1.0])
def test_pro_ranks_as_its_expansion_for_a_small_step(
    kind: type[nn.Module], step_size: float
) -> None:
    """log s = lambda S0 + O(lambda^2), S0 = d / norm(F) - <F, G> / norm(F)^2."""
    _, stats = stats_of(trained(kind), needs=Pro().needs)
    for layer in stats.values():
        norm = np.linalg.norm(layer.filters(), axis=1)
        inner = (layer.filters() * layer.filter_gradients()).sum(1)
        expansion = layer.offset_gradients() / norm - inner / norm**2
        score = Pro(step_size=step_size).score(layer)
        least = 0.97 if step_size < 1 else 0.7
        assert kendalltau(score, expansion).statistic >= least


def gradient(values: Sequence[float] | Sequence[Sequence[float]]) -> Gradient:
    array = np.array(values, dtype=np.float64)
    return Gradient(array, np.abs(array))


def hand_made(
    filters: list[list[float]], gradients: list[list[float]], d: list[float]
) -> LayerStats:
    """A layer without batch norm, of as many inputs as its filters are long."""
    offsets: Mapping[Place, Gradient] = {"activation": gradient(d)}
    return LayerStats(
        "hand",
        np.array(filters, dtype=np.float64),
        inputs=len(filters[0]),
        weight_gradient=gradient(gradients),
        batches=1,
        offsets=offsets,
    )


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


READINGS: list[tuple[Filter, Place, Accumulation, float]] = [
    # F = 2, G = -1, d = 3: (2 + .1) / (2 - .3)
    ("scale", "activation", "mean", 2.1 / 1.7),
    # F = [2, 1], G = [-1, 4], d = 5
    ("scale_shift", "norm", "mean", np.hypot(2.1, 0.6) / (5**0.5 - 0.5)),
    # F = [3, 4], G = [1, 0], d = 1
    ("own", "output", "mean", np.hypot(2.9, 4) / (5 - 0.1)),
    # F = [3, 4] * 2 / 4, G = [1, 0] * 4 / 2
    ("folded", "output", "mean", np.hypot(1.3, 2) / (2.5 - 0.1)),
    # over 3 batches
    ("scale", "activation", "sum", 2.3 / 1.1),
    # the absolute values are ten times the means
    ("scale", "activation", "absolute", 1.0 / 1.0),
]


@pytest.mark.parametrize(("filters", "place", "accumulation", "expected"), READINGS)
def test_pro_reads_filters_places_and_accumulations_by_hand(
    filters: Filter, place: Place, accumulation: Accumulation, expected: float
) -> None:
    def tenfold(value: float) -> Gradient:
        return Gradient(np.array([value]), np.array([10 * abs(value)]))

    offsets: Mapping[Place, Gradient] = {
        "activation": tenfold(3),
        "norm": tenfold(5),
        "output": tenfold(1),
    }
    layer = LayerStats(
        "hand",
        np.array([[3.0, 4.0]]),
        inputs=2,
        norm=Norm(np.array([2.0]), np.array([1.0]), np.array([0.5]), np.array([4.0])),
        batches=3,
        weight_gradient=gradient([[1, 0]]),
        scale_gradient=tenfold(-1),
        shift_gradient=tenfold(4),
        offsets=offsets,
    )
    one = Pro(step_size=0.1, filter=filters, place=place, accumulation=accumulation)
    assert one.score(layer) == pytest.approx([expected])


def test_magnitude_is_the_norm_of_the_filters() -> None:
    layer = hand_made([[3, -4]], [[0, 0]], [0])
    assert Magnitude().score(layer) == pytest.approx([5])
    assert Magnitude(order=1).score(layer) == pytest.approx([7])


def test_geometric_is_the_sum_of_distances_to_the_other_filters() -> None:
    layer = hand_made([[0, 0], [3, 4], [3, 0]], [[0, 0]] * 3, [0] * 3)
    np.testing.assert_allclose(Geometric().score(layer), [5 + 3, 5 + 4, 3 + 4])


def test_bn_scale_is_the_absolute_scale() -> None:
    one = np.ones(2)
    layer = replace(
        hand_made([[1], [1]], [[0], [0]], [0, 0]), norm=Norm(np.array([-2, 0.5]), one, one, one)
    )
    np.testing.assert_allclose(BnScale().score(layer), [2, 0.5])


def test_consumers_weigh_their_inputs_by_hand() -> None:
    layer = replace(
        hand_made([[1, 2], [3, 0]], [[0.5, 1], [-2, 0]], [0, 0]),
        input_mean=np.array([1.0, 1.0]),
        input_variance=np.array([2.0, 0.5]),
        input_abs_mean=np.array([7.0, 8.0]),
        input_square_mean=np.array([4.0, 9.0]),
        output_variance=np.array([22.0, 0.0]),
        relevance=np.array([0.1, 0.9]),
    )
    np.testing.assert_allclose(Fluctuation().score(layer), [2 * 10, 0.5 * 4])
    np.testing.assert_allclose(Activation().score(layer), [7, 8])
    np.testing.assert_allclose(Lrp().score(layer), [0.1, 0.9])
    np.testing.assert_allclose(
        GradientMagnitude().score(layer), [1 * 2.5 + 2 * (3 + 1), 3 * (2 + 2)]
    )
    # The input's variance over both channels is 6.5 - 1.
    np.testing.assert_allclose(BetaRank().score(layer), [1.5 * 2, 0])


def test_offset_and_taylor_hand_on_what_the_pass_found() -> None:
    layer = replace(
        hand_made([[1]], [[0]], [0]),
        taylor=np.array([1.0]),
        offset=np.array([2.0]),
        offset_per_position=np.array([3.0]),
    )
    assert Taylor().score(layer) == [1]
    assert Offset().score(layer) == [2]
    assert Offset(per_position=True).score(layer) == [3]


def test_random_scores_repeat_by_seed_and_differ_by_layer() -> None:
    layer = hand_made([[1.0]] * 8, [[0.0]] * 8, [0.0] * 8)
    assert np.array_equal(Random(seed=1).score(layer), Random(seed=1).score(layer))
    assert not np.array_equal(Random(seed=1).score(layer), Random(seed=2).score(layer))
    assert not np.array_equal(Random().score(layer), Random().score(replace(layer, name="other")))


def test_coupled_members_are_aggregated_by_their_mean() -> None:
    groups, stats = stats_of(trained(Residual), needs=frozenset())
    stream = next(group for group in groups if group.size == 8)
    each = [Magnitude().score(stats[name]) for name in ("stem", "outer.0", "outer.1")]
    np.testing.assert_allclose(group_scores(Magnitude(), stream, stats), np.mean(each, axis=0))


def test_a_channel_that_is_flattened_is_scored_by_the_mean_of_its_features() -> None:
    groups, stats = stats_of(trained(Concat), needs=Activation().needs)
    group = next(group for group in groups if group.name == "mix")
    expected = stats["fc1"].input_abs_mean.reshape(5, 16).mean(1)
    np.testing.assert_allclose(group_scores(Activation(), group, stats), expected)


def test_a_group_without_a_layer_on_the_criterions_side_is_a_clear_error() -> None:
    groups, stats = stats_of(trained(Chain), needs=Activation().needs)
    writers = replace(groups[0], members=tuple(m for m in groups[0].members if m.side == "out"))
    with pytest.raises(StageError, match="conv1: no convolution or linear layer reads all"):
        group_scores(Activation(), writers, stats)


def test_a_constant_input_has_no_beta_rank() -> None:
    layer = replace(
        hand_made([[1]], [[0]], [0]),
        input_mean=np.array([2.0]),
        input_square_mean=np.array([4.0]),
        output_variance=np.array([0.0]),
    )
    assert BetaRank().score(layer) == [0]
