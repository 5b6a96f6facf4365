"""Every allocator keeps the contract; each one's figures by hand or by the identity it claims."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from allocators_by_name import PACKAGE, made
from candidate_groups import candidate, kept, weighted
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.prune.allocators import Allocator, Candidate
from pipeline.prune.allocators.density import Density
from pipeline.prune.allocators.erk import Erk
from pipeline.prune.allocators.global_threshold import GlobalThreshold
from pipeline.prune.allocators.hill import Hill, guaranteed_mass, hill_number
from pipeline.prune.allocators.layer_shift import LayerShift
from pipeline.prune.allocators.reconstruction import Reconstruction, hull
from pipeline.prune.channel_counts import Widths, counts_at_knob
from pipeline.scoring.collect import Float64
from profiles.errors import StageError
from profiles.plugins import plugin_names

VARIANTS: Sequence[Allocator] = (
    *(made(name, {}) for name in plugin_names(PACKAGE)),
    *(made("global_threshold", {"normalise": how}) for how in ("mean", "lamp", "none")),
    *(made("hill", {"order": order}) for order in (0.5, 1, 7)),
    *(made("hill", {"transform": how}) for how in ("shift_min", "square")),
    made("hill", {"scope": "global", "beta": 0.7}),
    made("layer_shift", {"amplitude": 0.9}),
    made("reconstruction", {"power": 0.5}),
)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """1 to 5 groups, some of them flat, negative, of zeros, or with an error curve of any shape."""
    found = []
    for place in range(draw(st.integers(1, 5))):
        size, width = draw(st.integers(1, 40)), draw(st.sampled_from([1, 1, 4]))
        generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        spread = draw(st.sampled_from([0.0, 1.0, 100.0]))
        base = draw(st.sampled_from([0.0, 1.0, -1.0]))
        errors = generator.exponential(size=size + 1)
        if draw(st.booleans()):
            errors = np.append(np.sort(errors[:-1])[::-1], 0.0)
        plain = candidate(
            list(base + spread * generator.standard_normal(size)),
            name=str(place),
            width=width,
            macs=draw(st.sampled_from([0.0, 1.0, 3e5])),
            errors=list(errors),
            shape=(size * width, draw(st.integers(1, 64)), draw(st.sampled_from([1, 9]))),
        )
        weights = np.abs(spread * generator.standard_normal(size * width * 5))
        found.append(weighted(plain, list(weights)))
    return found


@pytest.mark.parametrize("allocator", VARIANTS, ids=repr)
def test_an_allocator_keeps_all_at_knob_0_and_never_more_at_a_larger_one(
    allocator: Allocator,
) -> None:
    fell = []

    @settings(max_examples=60, deadline=None)
    @given(groups=candidates(), knobs=st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
    def holds(groups: list[Candidate], knobs: list[float]) -> None:
        path = [np.array(allocator.keep(groups, knob)) for knob in (0.0, *knobs, 1.0)]
        assert path[0] == pytest.approx(1)
        for before, after in itertools.pairwise(path):
            assert len(after) == len(groups)
            assert (after <= before + 1e-12).all()
            assert (after >= 0).all()
            assert (after <= 1).all()
        fell.append(path[-1].mean() < path[-2].mean() < 1)

    holds()
    assert any(fell)
    own = allocator.knob()
    assert own is None or 0 < own <= 1


@pytest.mark.parametrize("allocator", VARIANTS, ids=repr)
def test_counts_fall_with_the_knob_and_respect_floors_and_multiples(allocator: Allocator) -> None:
    reached = set()

    @settings(max_examples=60, deadline=None)
    @given(
        groups=candidates(),
        multiple=st.sampled_from([1, 2, 8]),
        floors=st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.1, 0.5])),
        knobs=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    )
    def holds(
        groups: list[Candidate], multiple: int, floors: tuple[int, float], knobs: list[float]
    ) -> None:
        floor, floor_ratio = floors
        widths = Widths(multiple, *floors)
        all_kept, more, less = (
            counts_at_knob(knob, allocator, groups, widths) for knob in (0, *knobs)
        )
        for group in (one.group for one in groups):
            channels = less[group.name] * (group.channels // group.size)
            assert all_kept[group.name] == group.size
            assert 1 <= less[group.name] <= more[group.name] <= group.size
            pruned = less[group.name] < group.size
            assert not pruned or channels % multiple == 0
            assert not pruned or channels >= max(floor, floor_ratio * group.channels)
            reached.add(pruned)

    holds()
    assert reached == {True, False}


def test_the_floor_against_collapse_is_a_number_and_a_share_of_the_channels() -> None:
    groups = [candidate([1.0] * size, name=str(size)) for size in (6, 64, 200)]
    widths = Widths(multiple=1, floor=8, floor_ratio=0.1)
    counts = counts_at_knob(1.0, made("uniform", {}), groups, widths)
    assert counts == {"6": 6, "64": 8, "200": 20}
    widths = Widths(multiple=8, floor=8, floor_ratio=0.1)
    counts = counts_at_knob(1.0, made("uniform", {}), groups, widths)
    assert counts == {"6": 6, "64": 8, "200": 24}


# global_threshold


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [0, 2, 2]),  # 1 2 3 | 10 30 | 4 500: the three lowest are the first group
        ("mean", [2, 1, 1]),  # .5 1 1.5 | .5 1.5 | .016 1.98
        ("zscore", [2, 1, 1]),  # -1.2 0 1.2 | -1 1 | -1 1
        ("lamp", [2, 1, 1]),  # .07 .31 1 | .1 1 | .00006 1
    ],
)
def test_the_units_with_the_lowest_normalised_scores_go(how: str, expected: list[int]) -> None:
    groups = [candidate(s) for s in ([3.0, 1.0, 2.0], [10.0, 30.0], [500.0, 4.0])]
    assert kept(made("global_threshold", {"normalise": how}), groups, 3 / 7) == expected


@settings(max_examples=60, deadline=None)
@given(groups=candidates())
def test_lamp_leaves_every_group_its_best_unit(groups: list[Candidate]) -> None:
    alive = [c for c in groups if c.scores.any()]
    assume(alive)
    units = sum(c.group.size for c in alive)
    knob = (units - len(alive)) / units
    assert kept(GlobalThreshold(normalise="lamp"), alive, knob) == [1] * len(alive)


# hill

weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60).map(np.array)


@given(weights)
def test_the_number_of_order_2_is_what_its_variation_says(values: Float64) -> None:
    variation = values.std() / values.mean()
    share = hill_number(values, 2) / len(values)
    assert share == pytest.approx(1 / (1 + variation**2))
    assert hill_number(values, 2) == pytest.approx(values.sum() ** 2 / (values**2).sum())


@given(weights)
@pytest.mark.parametrize(("p", "q", "order"), [(1, 2, 2), (0.5, 1, 0.5)])
def test_the_pq_index_keeps_the_same_number(
    p: float, q: float, order: float, values: Float64
) -> None:
    """SAP keeps N (1 - I)^(pq / (q - p)), I = 1 - N^(1/q - 1/p) norm_p / norm_q, at eta = 0."""

    def norm(r: float) -> float:
        return float((values**r).sum() ** (1 / r))

    size = len(values)
    index = 1 - size ** (1 / q - 1 / p) * norm(p) / norm(q)
    expected = size * (1 - index) ** (p * q / (q - p))
    assert hill_number(values, order) == pytest.approx(expected)


def test_the_number_falls_with_the_order() -> None:
    reached = set()

    @example(np.array([1.0, 1.0]), [0.5, 2.0])
    @example(np.array([1.0, 3.0]), [0.5, 2.0])
    @given(weights, st.lists(st.floats(0.05, 300), min_size=2, max_size=5))
    def holds(values: Float64, orders: list[float]) -> None:
        numbers = [hill_number(values, order) for order in sorted([*orders, 1.0])]
        assert all(a >= b * (1 - 1e-9) for a, b in itertools.pairwise(numbers))
        assert numbers[-1] >= 1 - 1e-9
        assert numbers[0] <= len(values) * (1 + 1e-9)
        reached.add(numbers[0] > 1.01 * numbers[-1])

    holds()
    assert reached == {True, False}


@example(300, 0.1, 1 + 1e-7)
@given(st.integers(1, 300), st.sampled_from([0.0, 0.1, 7.0]), st.floats(0.1, 99))
def test_flat_scores_count_as_many_as_they_are(size: int, value: float, order: float) -> None:
    flat = candidate([value] * size)
    assert hill_number(flat.scores, order) == pytest.approx(size)
    assert Hill(order=order).keep([flat], 0.5) == [1.0]
    assert Hill(order=order, transform="shift_min").keep([flat], 0.5) == [1.0]


def test_it_keeps_the_floor_of_beta_times_the_number() -> None:
    scores = [candidate([4.0, 2.0, 1.0, 1.0])]  # 64 / 22 = 2.9
    assert kept(Hill(), scores, 0.5) == [2]
    assert kept(Hill(beta=1.1), scores, 0.5) == [3]
    assert kept(Hill(), scores, 0.25) == [4]  # beta 3
    assert kept(Hill(), scores, 0.99) == [1]
    assert kept(Hill(transform="square"), scores, 0.5) == [1]  # 484 / 274 = 1.8
    assert kept(Hill(order=1.0), scores, 0.5) == [3]  # 2^(0.5 + 0.5 + 2 * 3/8) = 3.4
    assert Hill().knob() == 0.5


def test_a_global_number_keeps_the_best_of_all_units() -> None:
    groups = [candidate([9.0, 8.0, 1.0]), candidate([7.0, 1.0])]  # 26^2 / 196 = 3.4
    assert kept(Hill(scope="global"), groups, 0.5) == [2, 1]
    assert kept(Hill(scope="global"), groups, 1.0) == [1, 0]


def test_the_kept_units_have_the_mass_that_is_guaranteed() -> None:
    reached = set()

    @settings(max_examples=300)
    @example(np.ones(8), 8)
    @example(np.ones(8), 4)
    @given(weights, st.integers(1, 60))
    def holds(values: Float64, most: int) -> None:
        count = min(most, len(values))
        least = guaranteed_mass(len(values), hill_number(values, 2), count)
        mass = np.sort(values)[::-1][:count].sum() / values.sum()
        if least is None:
            assert count < hill_number(values, 2) + 1e-9 or hill_number(values, 2) < 2
        else:
            assert least <= mass + 1e-9
        reached.add("none known" if least is None else "at least")

    holds()
    assert reached == {"none known", "at least"}


def test_the_guaranteed_mass_by_hand() -> None:
    # N = 4, N_eff = 2: v/N + (N - v)/N sqrt((N - v - 1) / ((v + 1)(N - 1))), then the other.
    assert guaranteed_mass(4, 2.0, 2) == pytest.approx(1 / 2 + 1 / 2 * (1 / 9) ** 0.5)
    assert guaranteed_mass(4, 2.0, 3) == pytest.approx(3 / 4 + 1 / 4 * (1 / 3) ** 0.5)
    assert guaranteed_mass(4, 1.9, 2) is None
    assert guaranteed_mass(4, 3.0, 2) is None
    assert guaranteed_mass(4, 4.0, 4) == 1


def test_the_report_warns_of_flat_scores_and_says_what_mass_stays() -> None:
    flat = candidate([1.0, 1.01, 0.99], name="flat")
    uneven = candidate([4.0, 2.0, 1.0, 1.0], name="uneven")
    lines = Hill().remarks([flat, uneven], {"flat": 3, "uneven": 2})
    assert [line.split(":")[0] for line in lines] == ["warning", "flat", "uneven"]
    assert "flat (CV 0.008)" in lines[0]
    assert "at least 0.667 of" in lines[2]
    assert not Hill(transform="shift_min").remarks([flat, uneven], {"flat": 1, "uneven": 1})


def test_no_mass_is_promised_where_the_kept_units_are_not_the_heaviest() -> None:
    signed = candidate([-4.0, 2.0, 1.0, 1.0])
    assert Hill().remarks([signed], {"0": 3}) == ()
    assert Hill(transform="shift_min").remarks([signed], {"0": 3})


# erk, layer_shift, density


def test_erk_densities_of_two_layers_by_hand() -> None:
    small = candidate([1.0] * 8, shape=(8, 4, 9))  # (8 + 4 + 3 + 3) / 288
    large = candidate([1.0] * 64, shape=(64, 32, 9))  # (64 + 32 + 3 + 3) / 18432
    # 1 % of 18720 weights are 187.2 = e (18 + 102).
    assert Erk().keep([small, large], 0.99) == pytest.approx([1.56 * 18 / 288, 1.56 * 102 / 18432])
    # e = 78 would keep 4.9 of the small one: it stays whole, the rest is the large one's.
    assert Erk().keep([small, large], 0.5) == pytest.approx([1, (9360 - 288) / 18432])


def test_a_group_with_high_scores_loses_less_than_the_base() -> None:
    groups = [candidate([m - 0.5, m + 0.5]) for m in (1.0, 2.0, 6.0)]  # I = -2/3, -1/3, 1
    expected = [0.5 - 0.4 / 3, 0.5 - 0.2 / 3, 0.7]
    assert LayerShift(amplitude=0.2).keep(groups, 0.5) == pytest.approx(expected)
    assert LayerShift(amplitude=0.2).keep(groups, 1.0) == [0, 0, 0]
    assert LayerShift().keep([candidate([1.0]), candidate([1.0])], 0.3) == [0.7, 0.7]


def test_a_group_is_as_dense_as_its_weights_over_the_threshold() -> None:
    weak = weighted(candidate([1.0] * 4), [1.0, 2.0, 3.0, 4.0])
    strong = weighted(candidate([1.0] * 6), [8.0, 3.5, 4.5, 5.0, 6.0, 7.0])
    assert Density().keep([weak, strong], 0.4) == pytest.approx([1 / 4, 5 / 6])
    zeros = weighted(candidate([1.0] * 2), [0.0, 0.0])
    assert Density().keep([zeros, strong], 0.0) == [1, 1]
    assert Density().keep([zeros], 0.5) == [1]


# reconstruction


def test_the_cheaper_error_per_mac_goes_first() -> None:
    # A unit of the dear group costs 10 MACs: its errors a MAC are .01 .03 .06, the others .02 .05.
    dear = candidate([1.0] * 3, macs=10, errors=[1.0, 0.4, 0.1, 0.0])
    cheap = candidate([1.0] * 2, macs=5, errors=[0.35, 0.1, 0.0])
    steps = {0.24: [3, 2], 0.25: [2, 2], 0.375: [2, 1], 0.625: [1, 1], 0.75: [1, 0], 1: [0, 0]}
    for knob, expected in steps.items():
        assert kept(Reconstruction(late_weight=1), [dear, cheap], knob) == expected


def test_a_curve_that_is_not_convex_is_left_in_one_step() -> None:
    assert hull(np.array([1.0, 0.9, 0.8, 0.0])) == [0, 3]
    assert hull(np.array([1.0, 0.2, 0.3, 0.0])) == [0, 1, 3]
    assert hull(np.array([0.5, 0.2, 0.1, 0.2])) == [0, 1, 2, 3]
    assert hull(np.array([0.7, 0.0])) == [0, 1]
    useless = candidate([1.0] * 3, errors=[1.0, 0.9, 0.8, 0.0])
    assert kept(Reconstruction(late_weight=1), [useless], 0.99) == [3]


def test_a_power_of_the_error_spares_the_group_that_has_lost_much() -> None:
    damaged = candidate([1.0] * 2, errors=[0.9, 0.5, 0.0])
    healthy = candidate([1.0] * 2, errors=[2.0, 0.51, 0.0])
    assert kept(Reconstruction(late_weight=1), [damaged, healthy], 0.5) == [0, 2]
    assert kept(Reconstruction(power=2, late_weight=1), [damaged, healthy], 0.5) == [1, 1]


def test_no_other_choice_of_as_few_macs_has_a_smaller_error() -> None:
    reached = set()

    @settings(max_examples=100, deadline=None)
    @example([([9, 4, 1, 0], 1.0), ([8, 5, 0], 2.0)], 0.5)
    @example([([9, 4, 1, 0], 1.0)], 0.0)
    @example([([9, 4, 1, 0], 1.0)], 1.0)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(0, 100), min_size=2, max_size=5),
                st.sampled_from([1.0, 2.0, 5.0]),
            ),
            min_size=1,
            max_size=3,
        ),
        st.floats(0, 1),
    )
    def holds(curves: list[tuple[list[int], float]], knob: float) -> None:
        groups = [
            candidate([1.0] * (len(e) - 1), macs=macs, errors=sorted(e, reverse=True))
            for e, macs in curves
        ]
        chosen = kept(Reconstruction(late_weight=1), groups, knob)

        def cost(counts: Sequence[int]) -> tuple[float, float]:
            pairs = list(zip(groups, counts, strict=True))
            return sum(g.macs * k for g, k in pairs), sum(float(g.errors[k]) for g, k in pairs)

        macs, error = cost(chosen)
        every = itertools.product(*(range(g.group.size + 1) for g in groups))
        assert error <= min(e for m, e in map(cost, every) if m <= macs) + 1e-9
        whole, _ = cost([g.group.size for g in groups])
        reached.add("all" if macs == whole else "some" if macs else "none")

    holds()
    assert reached == {"all", "some", "none"}


def test_errors_weigh_more_the_later_the_group_geometrically() -> None:
    alike = [candidate([1.0], errors=[1.0, 0.0]) for _ in range(3)]  # weighed 1, 2 and 4
    assert kept(Reconstruction(late_weight=4), alike, 0.4) == [0, 1, 1]
    assert kept(Reconstruction(late_weight=4), alike, 0.7) == [0, 0, 1]
    errors = [1.0, 0.51, 0.24]  # 1, 1.02 and 0.96 when weighed
    uneven = [candidate([1.0], errors=[error, 0.0]) for error in errors]
    assert kept(Reconstruction(late_weight=4), uneven, 0.4) == [1, 1, 0]
    assert kept(Reconstruction(late_weight=4), uneven, 0.7) == [0, 1, 0]
    assert kept(Reconstruction(late_weight=1), uneven, 0.7) == [1, 0, 0]
    assert kept(Reconstruction(late_weight=4), uneven[:1], 1.0) == [0]


def test_without_errors_it_says_so() -> None:
    with pytest.raises(StageError, match=r"features\.0: .*knows no error; choose another"):
        Reconstruction().keep([candidate([1.0, 2.0], name="features.0")], 0.5)
    assert Reconstruction.needs_errors
    assert Reconstruction().knob() is None
