"""From a budget to channel counts: monotone, aligned, at or under every limit."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from allocators_by_name import made
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Chain, Concat, Grouped, Residual, trained
from torch import nn

from pipeline.network.costs import MacsModel, macs_model
from pipeline.network.groups import Group, find_groups
from pipeline.prune.allocators import Candidate
from pipeline.prune.allocators.table import PRESETS, Row, Table
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import (
    Limits,
    Widths,
    candidates_of,
    counts_at_knob,
    largest_counts_within,
)
from profiles.errors import StageError
from profiles.plugins import plugin_names

EXAMPLE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SMALL = torch.zeros(1, 3, 8, 8)
ALLOCATORS = plugin_names("pipeline.prune.allocators")


def candidates(
    network: nn.Module, example: torch.Tensor
) -> tuple[tuple[Group, ...], MacsModel, list[Candidate]]:
    """The groups of a network, with random scores and random falling errors."""
    groups = find_groups(network, example).groups
    model = macs_model(network, example)
    generator = np.random.default_rng(0)
    scores = {g.name: generator.exponential(size=g.size) for g in groups}
    errors = {g.name: np.sort(generator.random(g.size + 1))[::-1] for g in groups}
    return groups, model, candidates_of(network, groups, model, scores, errors)


def small(kind: type[nn.Module]) -> tuple[tuple[Group, ...], MacsModel, list[Candidate]]:
    return _small(NETWORKS.index(kind))


@cache
def _small(place: int) -> tuple[tuple[Group, ...], MacsModel, list[Candidate]]:
    return candidates(trained(NETWORKS[place]), SMALL)


def bare(name: str, size: int, width: int = 1) -> Candidate:
    none = np.empty(0)
    group = Group(name, size, size * width, ())
    return Candidate(group, np.ones(size), 1.0, 1.0, none, (1, 1, 1), none.astype(np.float32))


def test_what_one_unit_costs_by_hand() -> None:
    """conv1 8 x 3 x 9, batch norm, conv2 6 x 8 x 9 with bias, fc 4 x 6 with bias; 64 positions."""
    _, _, (first, second) = small(Chain)
    assert first.macs == 64 * (3 * 9 + 6 * 9)
    assert first.parameters == 3 * 9 + 2 + 6 * 9
    assert second.macs == 64 * 8 * 9 + 4
    assert second.parameters == 8 * 9 + 1 + 4
    assert first.shape == (8, 3, 9)
    assert second.shape == (6, 8, 9)
    assert len(second.weights) == 6 * 8 * 9
    assert (np.diff(second.weights) >= 0).all()


def test_the_shape_counts_inputs_of_one_group_and_transposed_outputs() -> None:
    shapes = {c.group.name: c.shape for kind in (Grouped, Concat) for c in small(kind)[2]}
    assert shapes["reduce"] == (8, 3, 1)
    assert shapes["project"] == (5, 16, 1)
    assert shapes["mix"] == (5, 10, 1)
    assert shapes["fc1"] == (7, 80, 1)


def test_a_unit_of_a_stream_saves_its_share_of_the_whole_group() -> None:
    """A stream's layers that both write and read it go with the square of its width."""
    groups, model, (stream, *_) = small(Residual)
    whole = {g.name: g.size for g in groups}
    saved = model.total(groups, whole) - model.total(groups, {**whole, "stem": 0})
    assert stream.macs * stream.group.size == pytest.approx(saved)


def tight(
    counts: dict[str, int], groups: Sequence[Group], model: MacsModel, limits: Limits, multiple: int
) -> bool:
    """Whether some group's next multiple is over a limit, or nothing is left to keep."""
    costs = model.over(groups)
    nexts = [
        {**counts, g.name: min(g.size, counts[g.name] + g.unit_multiple(multiple))} for g in groups
    ]
    raised = [at for at in nexts if at != counts]
    return not raised or any(not limits.allow(costs.at(at)) for at in raised)


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_budget_is_met_within_one_multiple(name: str, kind: type[nn.Module]) -> None:
    groups, model, found = small(kind)
    allocator = made(name, {})
    costs = model.over(groups)
    dense = costs.at({g.name: g.size for g in groups})
    reached = set()

    def between(share: float | None, low: int, high: int) -> float | None:
        return None if share is None else low + share * (high - low)

    @settings(max_examples=12, deadline=None)
    @example(macs=None, parameters=None, size=None, multiple=1)
    @example(macs=0.3, parameters=None, size=None, multiple=2)
    @given(
        macs=st.none() | st.floats(0.3, 1.0),
        parameters=st.none() | st.floats(0.3, 1.0),
        size=st.none() | st.floats(0.3, 1.0),
        multiple=st.sampled_from([1, 2]),
    )
    def holds(
        macs: float | None, parameters: float | None, size: float | None, multiple: int
    ) -> None:
        widths = Widths(multiple, floor=multiple)
        least = costs.at(counts_at_knob(1.0, allocator, found, widths))
        limits = Limits(
            macs=between(macs, least.macs, dense.macs),
            parameters=between(parameters, least.parameters, dense.parameters),
            size_bytes=between(size, 4 * least.parameters, 4 * dense.parameters),
        )
        counts = largest_counts_within(limits, allocator, found, model, widths)
        cost = costs.at(counts)
        assert limits.macs is None or cost.macs <= limits.macs
        assert limits.parameters is None or cost.parameters <= limits.parameters
        assert limits.size_bytes is None or 4 * cost.parameters <= limits.size_bytes
        assert tight(counts, groups, model, limits, multiple)
        for group in groups:
            channels = counts[group.name] * (group.channels // group.size)
            assert counts[group.name] == group.size or channels % multiple == 0
        reached.add("whole" if cost == dense else "pruned")

    holds()
    assert reached == {"whole", "pruned"}


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("ratio", [0.9, 0.6, 0.4])
def test_a_target_is_met_by_the_largest_network_on_the_path(name: str, ratio: float) -> None:
    groups, model, found = small(Residual)
    limit = ratio * model.total(groups, {g.name: g.size for g in groups})
    counts = largest_counts_within(Limits(macs=limit), made(name, {}), found, model, Widths())
    knobs = np.linspace(0, 1, 400)
    path = [counts_at_knob(float(knob), made(name, {}), found, Widths()) for knob in knobs]
    fitting = [model.total(groups, at) for at in path if model.total(groups, at) <= limit]
    assert model.total(groups, counts) >= max(fitting)


def test_without_a_limit_everything_stays() -> None:
    groups, model, found = small(Residual)
    counts = largest_counts_within(Limits(), Uniform(), found, model, Widths())
    assert counts == {g.name: g.size for g in groups}


@pytest.mark.parametrize(
    ("limits", "unit"),
    [
        (Limits(macs=1), "MACs"),
        (Limits(parameters=1), "parameters"),
        (Limits(macs=1e9, size_bytes=4), "parameters"),
    ],
)
def test_a_target_beyond_reach_says_how_far_it_goes(limits: Limits, unit: str) -> None:
    _, model, found = small(Chain)
    with pytest.raises(StageError, match=rf"0\.00 M {unit} asked.* no less than 0\.\d+ of dense"):
        largest_counts_within(limits, Uniform(), found, model, Widths(multiple=2, floor=2))


def test_the_floor_may_be_a_share_of_the_channels() -> None:
    groups, model, found = small(Chain)
    limits = Limits(macs=0.6 * model.total(groups, {g.name: g.size for g in groups}))
    counts = largest_counts_within(
        limits, made("reconstruction", {}), found, model, Widths(floor_ratio=0.5)
    )
    assert min(counts["conv1"] / 8, counts["conv2"] / 6) >= 0.5


def test_counts_fall_with_the_knob_and_respect_floor_and_multiple() -> None:
    reached = set()

    @settings(max_examples=200, deadline=None)
    @example([64], 8, 8, (0.25, 0.75))
    @given(
        st.lists(st.integers(1, 512), min_size=1, max_size=6),
        st.sampled_from([1, 4, 8, 16]),
        st.integers(1, 64),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
    )
    def holds(widths: list[int], multiple: int, floor: int, knobs: tuple[float, float]) -> None:
        groups = [bare(str(i), width) for i, width in enumerate(widths)]
        sizes = Widths(multiple, floor)
        more, less = (counts_at_knob(k, Uniform(), groups, sizes) for k in sorted(knobs))
        for g in (candidate.group for candidate in groups):
            assert 1 <= less[g.name] <= more[g.name] <= g.size
            assert less[g.name] >= min(floor, g.size)
            assert less[g.name] % multiple == 0 or less[g.name] == g.size
            reached.add(less[g.name] < more[g.name] < g.size)

    holds()
    assert reached == {True, False}


def test_the_multiple_counts_channels_not_units() -> None:
    wide = bare("grouped", 16, width=4)
    widths = Widths(multiple=8, floor=8)
    assert counts_at_knob(0.4, Uniform(), [wide], widths) == {"grouped": 10}
    assert counts_at_knob(1.0, Uniform(), [wide], widths) == {"grouped": 2}


def test_a_group_between_two_multiples_stays_whole_when_that_is_nearer() -> None:
    odd = bare("odd", 20)
    kept = {
        knob: counts_at_knob(knob, Uniform(), [odd], Widths(8, 8))["odd"]
        for knob in (0.0, 0.09, 0.11, 0.39, 0.41)
    }
    assert kept == {0.0: 20, 0.09: 20, 0.11: 16, 0.39: 16, 0.41: 8}


def ratios(table: Table, found: Sequence[Candidate], knob: float) -> dict[str, float]:
    shares = zip(found, table.keep(found, knob), strict=True)
    return {c.group.name: round(1 - share, 6) for c, share in shares}


def test_a_table_takes_the_first_row_that_matches_and_scales_all_alike() -> None:
    _, _, found = small(Residual)
    table = Table(
        rows=(
            Row(layers="inner.0", pruning_ratio=0.5),
            Row(layers="inner.*", pruning_ratio=0.25),
        )
    )
    knob = table.knob() or 0
    assert ratios(table, found, knob) == {"stem": 0.0, "inner.0": 0.5, "inner.1": 0.25}
    assert ratios(table, found, knob / 2) == {"stem": 0.0, "inner.0": 0.25, "inner.1": 0.125}


@pytest.mark.parametrize(
    ("preset", "model", "groups"),
    [
        ("resnet50-47.7", "resnet50", {0.0: 1, 0.25: 4, 0.40: 32}),
        ("mobilenet_v2-54.2", "mobilenet_v2", {0.20: 1, 0.35: 24}),
        ("vgg19-87.5", "vgg19_bn", {0.0: 2, 0.60: 4, 0.65: 8, 0.70: 4}),
    ],
)
def test_the_published_tables_fit_the_networks_they_are_for(
    preset: str, model: str, groups: dict[float, int]
) -> None:
    network = torchvision.models.get_model(model, weights=None).eval()
    table = Table.model_validate({"preset": preset})
    _, _, found = candidates(network, EXAMPLE)
    assert Counter(ratios(table, found, table.knob() or 0).values()) == groups


def test_every_preset_is_reachable_by_name() -> None:
    for preset in PRESETS:
        assert Table.model_validate({"preset": preset}).knob() is not None
