"""Every entry of the table of layer kinds, against torch and against slices made by hand."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.layers.folded_layer import Folded
from pipeline.network.layer_kinds import (
    KINDS,
    BatchNorm,
    FilterBank,
    LayerKind,
    LinearMap,
    Side,
    kind_of,
)
from profiles.errors import ConfigError

SAMPLES = 3


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its input, and what its slices must be, written down by hand."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of one sample."""
    keeps: Mapping[Side, tuple[int, ...]]
    """Channels that may be kept."""
    axes: Mapping[Side, Mapping[str, tuple[int, tuple[int, ...]]]]
    """By tensor: the axis that is sliced, and the indices that stay."""
    macs: int = 0
    """Of SAMPLES samples."""
    one_sided: bool = False


def _vectors(*names: str, kept: tuple[int, ...]) -> Mapping[str, tuple[int, tuple[int, ...]]]:
    return dict.fromkeys(names, (0, kept))


def _channelwise(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *tensors: str,
    kept: tuple[int, ...] = (0, 2, 3),
    macs: int = 0,
) -> Case:
    return Case(
        make,
        shape,
        {"out": kept, "in": kept},
        {"out": _vectors(*tensors, kept=kept), "in": _vectors(*tensors, kept=kept)},
        macs,
        one_sided=True,
    )


def _filters(
    make: Callable[[], nn.Module], shape: tuple[int, ...], macs: int, first: Side = "out"
) -> Case:
    """Of 4 inputs and 6 outputs in one group; axis 0 of the weight counts `first`."""
    keeps: Mapping[Side, tuple[int, ...]] = {"out": (1, 4, 5), "in": (0, 3)}
    axes: Mapping[Side, int] = {"out": int(first == "in"), "in": int(first == "out")}
    out = {"weight": (axes["out"], keeps["out"]), "bias": (0, keeps["out"])}
    sliced: Mapping[Side, Mapping[str, tuple[int, tuple[int, ...]]]] = {
        "out": out,
        "in": {"weight": (axes["in"], keeps["in"])},
    }
    return Case(make, shape, keeps, sliced, macs)


NORM = ("weight", "bias", "running_mean", "running_var")
CASES: Mapping[str, Case] = {
    "conv1d": _filters(lambda: nn.Conv1d(4, 6, 3, padding=1), (4, 7), macs=SAMPLES * 7 * 6 * 4 * 3),
    "conv2d, stride, dilation, no bias": _filters(
        lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=2, bias=False),
        (4, 8, 8),
        macs=SAMPLES * 4 * 4 * 6 * 4 * 9,
    ),
    "conv2d in groups": Case(
        lambda: nn.Conv2d(4, 6, 3, groups=2),
        (4, 8, 8),
        {"out": (0, 2, 3, 5), "in": (1, 3)},
        {"out": _vectors("weight", "bias", kept=(0, 2, 3, 5)), "in": {"weight": (1, (1,))}},
        macs=SAMPLES * 6 * 6 * 6 * 2 * 9,
    ),
    "depthwise conv2d": _channelwise(
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
        *((4, 8, 8), "weight", "bias"),
        macs=SAMPLES * 8 * 8 * 4 * 9,
    ),
    "conv3d": _filters(
        lambda: nn.Conv3d(4, 6, 2), (4, 3, 4, 5), macs=SAMPLES * 2 * 3 * 4 * 6 * 4 * 8
    ),
    "transposed conv1d": _filters(
        lambda: nn.ConvTranspose1d(4, 6, 3), (4, 7), SAMPLES * 7 * 4 * 6 * 3, first="in"
    ),
    "transposed conv2d in groups": Case(
        lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        (4, 5, 5),
        {"out": (0, 2, 3, 5), "in": (1, 3)},
        {
            "out": {"weight": (1, (0, 2)), "bias": (0, (0, 2, 3, 5))},
            "in": {"weight": (0, (1, 3))},
        },
        macs=SAMPLES * 5 * 5 * 4 * 3 * 4,
    ),
    "depthwise transposed conv2d": _channelwise(
        lambda: nn.ConvTranspose2d(4, 4, 3, groups=4),
        *((4, 5, 5), "weight", "bias"),
        macs=SAMPLES * 5 * 5 * 4 * 9,
    ),
    "transposed conv3d": _filters(
        lambda: nn.ConvTranspose3d(4, 6, 2),
        *((4, 3, 4, 5), SAMPLES * 3 * 4 * 5 * 4 * 6 * 8),
        first="in",
    ),
    "linear": _filters(lambda: nn.Linear(4, 6), (4,), macs=SAMPLES * 6 * 4),
    "linear over tokens, no bias": _filters(
        lambda: nn.Linear(4, 6, bias=False), (5, 4), macs=SAMPLES * 5 * 6 * 4
    ),
    "batch norm 1d": _channelwise(lambda: nn.BatchNorm1d(4), (4, 7), *NORM),
    "batch norm 2d": _channelwise(lambda: nn.BatchNorm2d(4), (4, 5, 5), *NORM),
    "batch norm 2d, not affine": _channelwise(
        lambda: nn.BatchNorm2d(4, affine=False), (4, 5, 5), "running_mean", "running_var"
    ),
    "batch norm 3d": _channelwise(lambda: nn.BatchNorm3d(4), (4, 2, 3, 3), *NORM),
    "instance norm 1d": _channelwise(lambda: nn.InstanceNorm1d(4), (4, 7)),
    "instance norm 2d, affine": _channelwise(
        lambda: nn.InstanceNorm2d(4, affine=True), (4, 5, 5), "weight", "bias"
    ),
    "instance norm 2d, with statistics": _channelwise(
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (4, 5, 5), *NORM
    ),
    "instance norm 3d": _channelwise(lambda: nn.InstanceNorm3d(4), (4, 2, 3, 3)),
    "group norm": _channelwise(
        lambda: nn.GroupNorm(3, 6), (6, 5, 5), "weight", "bias", kept=(0, 1, 4, 5)
    ),
    "group norm, not affine": _channelwise(
        lambda: nn.GroupNorm(3, 6, affine=False), (6, 7), kept=(2, 3)
    ),
    "prelu": _channelwise(lambda: nn.PReLU(4), (4, 5, 5), "weight"),
}
EVERY = pytest.mark.parametrize("name", CASES)
BOTH: tuple[Side, Side] = ("out", "in")


def uneven(layer: nn.Module) -> nn.Module:
    """`layer` in eval mode, no two of its values alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 2.0)
    return layer.eval()


def of(name: str) -> tuple[LayerKind, Tensor]:
    case = CASES[name]
    kind = kind_of(uneven(case.make()))
    assert kind is not None
    return kind, torch.randn(SAMPLES, *case.shape)


def channel_axis(kind: LayerKind) -> int:
    return -1 if isinstance(kind, FilterBank) and kind.channels_last else 1


def names(case: type[FilterBank] | type[LinearMap]) -> list[str]:
    """The cases of a kind that can do so."""
    return [name for name in CASES if isinstance(of(name)[0], case)]


def test_every_class_of_the_table_has_a_case() -> None:
    layers = [case.make() for case in CASES.values()]
    for kind in KINDS:
        assert all(any(type(layer) is one for layer in layers) for one in kind.TYPES)


def test_no_class_has_two_kinds_and_sub_classes_have_that_of_their_parent() -> None:
    class Own(nn.Conv2d):
        pass

    types = [one for kind in KINDS for one in kind.TYPES]
    assert not any(issubclass(one, other) for one in types for other in types if one is not other)
    assert type(kind_of(Own(3, 4, 1))) is type(kind_of(nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LayerNorm(4), nn.Embedding(3, 4)])
def test_a_layer_whose_channels_cannot_be_removed_has_no_kind(layer: nn.Module) -> None:
    assert kind_of(layer) is None


@EVERY
@pytest.mark.parametrize("side", BOTH)
def test_a_slice_is_the_one_made_by_hand_and_the_layer_still_runs(name: str, side: Side) -> None:
    case = CASES[name]
    kind, inputs = of(name)
    before = copy.deepcopy(kind.layer.state_dict())
    kept = case.keeps[side]
    kind.slice(side, kept)
    after = kind.layer.state_dict()
    assert set(after) == set(before)
    for tensor, value in before.items():
        wanted = value
        if tensor in case.axes[side]:
            axis, indices = case.axes[side][tensor]
            wanted = value.index_select(axis, torch.tensor(indices))
        assert torch.equal(after[tensor], wanted)
    assert kind.channels(side) == len(kept)
    if case.one_sided:
        assert kind.channels("in") == kind.channels("out")
    if side == "in" or case.one_sided:
        inputs = inputs.index_select(channel_axis(kind), torch.tensor(kept))
    outputs = kind.layer(inputs)
    assert outputs.shape[channel_axis(kind)] == kind.channels("out")


@EVERY
@pytest.mark.parametrize("side", BOTH)
def test_a_sliced_layer_answers_as_one_whose_removed_channels_are_silent(
    name: str, side: Side
) -> None:
    case = CASES[name]
    kind, inputs = of(name)
    kept = torch.tensor(case.keeps[side])
    whole = kind_of(copy.deepcopy(kind.layer))
    assert whole is not None
    given = inputs
    if side == "in" and not case.one_sided:
        removed = torch.ones(kind.channels("in"), dtype=torch.bool)
        removed[kept] = False
        whole.silence_inputs(removed)
    with torch.no_grad():
        wanted = whole.layer(inputs)
        if side == "in" or case.one_sided:
            given = inputs.index_select(channel_axis(kind), kept)
        if side == "out" or case.one_sided:
            wanted = wanted.index_select(channel_axis(kind), kept)
        kind.slice(side, case.keeps[side])
        torch.testing.assert_close(kind.layer(given), wanted, rtol=1e-4, atol=1e-5)


TIES: Mapping[str, Mapping[Side, list[int]]] = {
    "conv2d in groups": {"out": [0, 1, 2, 0, 1, 2], "in": [0, 1, 0, 1]},
    "transposed conv2d in groups": {"out": [0, 1, 2, 0, 1, 2], "in": [0, 1, 0, 1]},
    "group norm": {"out": [0, 0, 1, 1, 2, 2], "in": [0, 0, 1, 1, 2, 2]},
    "group norm, not affine": {"out": [0, 0, 1, 1, 2, 2], "in": [0, 0, 1, 1, 2, 2]},
}


@EVERY
@pytest.mark.parametrize("side", BOTH)
def test_channels_that_must_go_together_are_those_known_by_hand(name: str, side: Side) -> None:
    labels = of(name)[0].tied_channels(side)
    assert (None if labels is None else labels.tolist()) == TIES.get(name, {}).get(side)


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), "in"),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "out"),
    ],
)
def test_different_channels_in_the_groups_of_a_convolution_are_refused(
    layer: nn.Module, side: Side
) -> None:
    kind = kind_of(layer)
    assert kind is not None
    with pytest.raises(ConfigError, match="different channels in the groups"):
        kind.slice(side, (0, kind.channels(side) - 1))


@EVERY
def test_macs_are_those_counted_by_hand_and_by_torch(name: str) -> None:
    kind, inputs = of(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = kind.layer(inputs)
    macs = kind.macs(inputs, outputs) if isinstance(kind, FilterBank) else 0
    assert macs == CASES[name].macs == counter.get_total_flops() // 2


@EVERY
def test_one_sided_layers_are_those_known_by_hand(name: str) -> None:
    assert of(name)[0].one_sided == CASES[name].one_sided


@pytest.mark.parametrize("name", names(FilterBank))
def test_a_filter_holds_the_weights_that_move_its_output_and_no_other(name: str) -> None:
    kind, inputs = of(name)
    assert isinstance(kind, FilterBank)
    fan_in = kind.channels("in") // kind.groups * kind.kernel_positions
    for output in range(kind.channels("out")):
        answer = kind.layer(inputs).select(channel_axis(kind), output).sum()
        (gradient,) = torch.autograd.grad(answer, kind.weight)
        moved = kind.filters(gradient) != 0
        assert moved.shape == (kind.channels("out"), fan_in)
        assert moved[output].all()
        assert int(moved.sum()) == fan_in
        only = torch.zeros(kind.channels("out"))
        only[output] = 1.0
        assert torch.equal(kind.at_weights(only).expand_as(kind.weight) != 0, gradient != 0)


@pytest.mark.parametrize("name", names(LinearMap))
def test_rows_times_the_matrix_are_the_output_at_every_position(name: str) -> None:
    kind, inputs = of(name)
    assert isinstance(kind, LinearMap)
    with torch.no_grad():
        outputs = kind.layer(inputs)
        positions = kind.positions(outputs)
        chosen = torch.arange(max(1, torch.Size(positions).numel())).repeat(SAMPLES, 1)
        matrix = kind.matrix_of(kind.weight)
        found = kind.input_rows(inputs, positions, chosen) @ matrix.transpose(1, 2)
        answers = found.transpose(0, 1).flatten(1)
        if kind.bias is not None:
            answers = answers + kind.bias
    torch.testing.assert_close(kind.output_rows(outputs, chosen), answers, rtol=1e-4, atol=1e-4)
    assert torch.equal(kind.weight_of(matrix), kind.weight)


@pytest.mark.parametrize("name", names(LinearMap))
def test_another_weight_and_bias_are_applied_as_if_the_layer_had_them(name: str) -> None:
    kind, inputs = of(name)
    assert isinstance(kind, LinearMap)
    weight, bias = torch.randn_like(kind.weight), torch.randn(kind.channels("out"))
    found = kind.applied(inputs, weight, bias)
    with torch.no_grad():
        kind.weight.copy_(weight)
        kind.layer.register_parameter("bias", nn.Parameter(bias))
        assert torch.equal(found, kind.layer(inputs))


NORM_BEHIND: Mapping[str, Callable[[int], nn.Module]] = {
    "conv1d": nn.BatchNorm1d,
    "conv2d, stride, dilation, no bias": nn.BatchNorm2d,
    "conv2d in groups": nn.BatchNorm2d,
    "depthwise conv2d": nn.BatchNorm2d,
    "conv3d": nn.BatchNorm3d,
    "linear": nn.BatchNorm1d,
}


@pytest.mark.parametrize("name", NORM_BEHIND)
def test_a_layer_folded_with_its_norm_answers_as_layer_then_norm(name: str) -> None:
    kind, inputs = of(name)
    assert isinstance(kind, LinearMap)
    norm = uneven(NORM_BEHIND[name](kind.channels("out")))
    found = kind_of(norm)
    assert isinstance(found, BatchNorm)
    assert found.foldable
    folded = Folded(kind.layer, norm)
    with torch.no_grad():
        weight, bias = kind.weight_of(folded.weight()), folded.affine()[1]
        wanted = norm(kind.layer(inputs))
        torch.testing.assert_close(kind.applied(inputs, weight, bias), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False)]
)
def test_a_norm_without_scale_or_statistics_cannot_be_folded(norm: nn.Module) -> None:
    found = kind_of(norm)
    assert isinstance(found, BatchNorm)
    assert not found.foldable


@pytest.mark.parametrize("name", names(LinearMap))
def test_an_input_that_is_constant_gives_the_constant_output(name: str) -> None:
    kind, inputs = of(name)
    assert isinstance(kind, LinearMap)
    means = torch.randn(kind.channels("in"))
    shape = [1] * inputs.dim()
    shape[channel_axis(kind)] = -1
    with torch.no_grad():
        outputs = kind.layer(means.reshape(shape).expand_as(inputs))
        places = kind.positions(outputs)
        grid = torch.arange(torch.Size(places).numel()).reshape(places)
        middle = grid[tuple(size // 2 for size in places)]  # padding is beyond its reach
        found = kind.output_rows(outputs, middle.expand(SAMPLES, 1))[0]
        found = found if kind.bias is None else found - kind.bias
    torch.testing.assert_close(kind.at_constant_input(means), found, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_norm_group_is_refused_and_the_groups_left_are_counted() -> None:
    norm = nn.GroupNorm(3, 6)
    kind = kind_of(norm)
    assert kind is not None
    with pytest.raises(ConfigError, match="4 channels in 3 groups of a GroupNorm"):
        kind.slice("out", (0, 1, 2, 4))
    kind.slice("out", (2, 3))
    assert (norm.num_groups, norm.num_channels) == (1, 2)
