"""Parity: what is the same network passes, and everything else is caught."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, trained
from onnx_graphs import Floats, feeds, linear
from torch import nn

from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import torch_network
from exporters.parity import (
    TOLERANCES,
    Network,
    Parity,
    compare,
    feeds_of,
    require,
    require_agreement,
)
from profiles.device import Precision
from profiles.errors import StageError

INPUTS = feeds(1, 4, count=5)
MATRIX = feeds(4, 3, seed=1)[0]


def reference(batch: Floats) -> Floats:
    return batch @ MATRIX


def spoiled(value: float) -> Callable[[Floats], Floats]:
    """The reference, but one output of the last input is `value`."""

    def network(batch: Floats) -> Floats:
        output = reference(batch)
        if np.array_equal(batch, INPUTS[-1]):
            output[0, 1] = value
        return output

    return network


def parity(error: float = 0.0, column_error: float = 0.0) -> Parity:
    return Parity(
        max_abs=1,
        error=error,
        column_error=column_error,
        worst_column="column 7 of axis 1",
        top1_agreement=1,
        decided=1,
        inputs=1,
    )


def test_a_network_agrees_with_itself() -> None:
    found = compare(reference, reference, INPUTS)
    assert (found.max_abs, found.error, found.column_error) == (0, 0, 0)
    assert (found.top1_agreement, found.inputs) == (1, 5)
    assert require("nothing", found) is found


def test_the_figures_are_those_known_by_hand() -> None:
    inputs = [np.array([[1, 8]], np.float32), np.array([[4, 2], [3, 1]], np.float32)]

    def shifted(batch: Floats) -> Floats:
        return batch + np.array([5, 0], np.float32)

    found = compare(lambda batch: batch, shifted, inputs)
    assert (found.max_abs, found.error) == (5, 5 / 8)
    assert (found.top1_agreement, found.decided, found.inputs) == (1, 3, 3)
    # The first column is 1, 4, 3: its variance is 14/9. The second one is not off.
    assert found.worst_column == "column 0 of axis 1"
    assert found.column_error == pytest.approx(5 / math.sqrt(14 / 9))
    swapped = compare(lambda batch: batch, lambda batch: batch[:, ::-1], inputs)
    assert (swapped.max_abs, swapped.error, swapped.top1_agreement) == (7, 7 / 8, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_an_output_that_is_not_finite_is_refused_even_where_both_have_it(
    value: float, side: str
) -> None:
    bad = spoiled(value)
    pair = (bad, bad) if side == "reference" else (reference, bad)
    with pytest.raises(StageError, match=f"the {side} gives NaN or infinity on input 4"):
        compare(*pair, INPUTS)


@pytest.mark.parametrize(
    "reshaped",
    [lambda batch: reference(batch)[:, :2], lambda batch: reference(batch)[:, :, None]],
    ids=["fewer", "deeper"],
)
def test_outputs_of_another_shape_are_refused_before_they_are_broadcast(
    reshaped: Callable[[Floats], Floats],
) -> None:
    with pytest.raises(StageError, match="differ in shape"):
        compare(reference, reshaped, INPUTS)


def test_no_input_proves_nothing() -> None:
    with pytest.raises(StageError, match="at least one input"):
        compare(reference, reference, [])


@pytest.mark.parametrize("answer", [[0, 0, 0], [7, 7, 7], [0.1, 0.2, 0.7]])
def test_a_reference_that_answers_every_input_the_same_proves_nothing(
    answer: list[float],
) -> None:
    def deaf(batch: Floats) -> Floats:
        return np.tile(np.array(answer, np.float32), (len(batch), 1))

    with pytest.raises(StageError, match="the same for every input"):
        compare(deaf, deaf, INPUTS)


def test_one_input_with_different_outputs_is_enough() -> None:
    assert compare(reference, reference, INPUTS[:1]).inputs == 1


@pytest.mark.parametrize(("error", "passes"), [(0.0, True), (1e-4, True), (1.001e-4, False)])
def test_the_tolerance_is_the_largest_error_that_passes(error: float, passes: bool) -> None:
    found = parity(error=error)
    assert TOLERANCES["fp32"].error == 1e-4
    if passes:
        assert require("a step", found) is found
        return
    with pytest.raises(StageError, match="a step changed the network"):
        require("a step", found)


@settings(deadline=None)
@given(st.sampled_from([1e-30, 1e-6, 1e-3, 0.05, 1.0, 100.0, 1e6]), st.floats(2e-3, 1))
def test_a_part_of_two_thousandths_is_caught_whatever_the_scale_of_the_outputs(
    scale: float, part: float
) -> None:
    def network(factor: float) -> Callable[[Floats], Floats]:
        return lambda batch: (reference(batch) * np.float32(scale * factor)).astype(np.float32)

    require("nothing", compare(network(1), network(1), INPUTS))
    with pytest.raises(StageError, match="changed the network"):
        require("scaling", compare(network(1), network(1 + part), INPUTS))


def test_a_network_of_tiny_outputs_is_not_the_same_as_none() -> None:
    def tiny(batch: Floats) -> Floats:
        return reference(batch) * np.float32(1e-6)

    with pytest.raises(StageError, match="changed the network"):
        require("silence", compare(tiny, lambda batch: 0 * tiny(batch), INPUTS))


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_one_channel_that_moved_is_caught_in_any_layer(kind: type[nn.Module]) -> None:
    network = trained(kind)
    inputs = feeds(1, 3, 8, 8, count=4)
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    names = [name for name, module in network.named_modules() if isinstance(module, layers)]
    assert len(names) > 2
    for name in names:
        moved = copy.deepcopy(network)
        weight = moved.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight[:2] = weight[:2].flip(0)
        found = compare(torch_network(network), torch_network(moved), inputs)
        with pytest.raises(StageError, match="moving"):
            require("moving", found)


def test_one_wrong_weight_of_an_onnx_graph_is_caught() -> None:
    right, wrong = linear(), linear()
    values = np.frombuffer(wrong.graph.initializer[0].raw_data, np.float32).copy()
    values[3] *= 1.01
    wrong.graph.initializer[0].raw_data = values.tobytes()
    reference, candidate = (plain_network(g.SerializeToString()) for g in (right, wrong))
    with pytest.raises(StageError, match="changed the network"):
        require("copying", compare(reference, candidate, feeds(1, 2, count=8)))


def test_a_free_batch_is_fed_one_by_one_and_all_at_once() -> None:
    inputs = feeds(4, 2)[0]
    fixed, free = feeds_of(inputs, dynamic_batch=False), feeds_of(inputs, dynamic_batch=True)
    assert [feed.shape for feed in fixed] == [(1, 2)] * 4
    assert [feed.shape for feed in free] == [(1, 2)] * 4 + [(4, 2)]
    assert np.array_equal(np.concatenate(fixed), free[-1])


def test_a_first_class_counts_where_the_reference_leads_by_a_tenth_of_its_range() -> None:
    rows = np.array([[0, 10, 9.1], [0, 10, 8.9], [2, 2, 2]], np.float32)
    found = compare(lambda batch: batch, lambda batch: batch[:, [0, 2, 1]], [rows])
    assert (found.decided, found.top1_agreement) == (1, 0)
    assert compare(lambda batch: batch, lambda batch: batch, [rows]).top1_agreement == 1


def off_where_large(part: float) -> Network:
    """The reference, but for inputs beyond 50 by this part of it."""

    def network(batch: Floats) -> Floats:
        return reference(batch) * np.float32(1 + part * (np.abs(batch).max() > 50))

    return network


LARGE = [1000 * feed for feed in INPUTS]


def test_less_is_asked_on_noise_and_edges_than_on_images() -> None:
    pair = (reference, off_where_large(3e-4))
    on_images, elsewhere = require_agreement("a step", pair, (INPUTS, LARGE), "fp32")
    assert on_images.error == 0
    assert elsewhere.error > TOLERANCES["fp32"].error
    with pytest.raises(StageError, match=r"^a step changed the network"):
        require_agreement("a step", pair, (LARGE, INPUTS), "fp32")


def test_far_off_on_noise_is_refused_whatever_it_is_on_images() -> None:
    pair = (reference, off_where_large(0.01))
    with pytest.raises(StageError, match=r"^a step, on noise and edges, changed the network"):
        require_agreement("a step", pair, (INPUTS, LARGE), "fp32")


def test_a_column_off_by_more_than_its_precision_allows_is_named() -> None:
    for precision, allowed in TOLERANCES.items():
        at_most, beyond = allowed.column_error, 1.01 * allowed.column_error
        assert require("a step", parity(column_error=at_most), precision)
        with pytest.raises(StageError, match="column 7 of axis 1 off by"):
            require("a step", parity(column_error=beyond), precision)


def detections(batch: Floats) -> Floats:
    """Boxes in 640 pixels beside 20 scores that are seldom far from 0."""
    boxes = 320 + 300 * np.sin(batch @ np.eye(4, dtype=np.float32))
    powers = (batch @ SCORED) ** 4
    return np.asarray(np.concatenate([boxes, powers / (20 + powers)], 1), np.float32)


def normalised(batch: Floats) -> Floats:
    """The same with boxes as parts of the picture."""
    return np.asarray(detections(batch) / np.array([640] * 4 + [1] * 20), np.float32)


def saturated(batch: Floats) -> Floats:
    """Scores of a network that is sure of almost everything."""
    return np.asarray(1 / (1 + np.exp(-(batch @ MATRIX[:, :1] / 4 + 11))), np.float32)


def test_one_rounding_of_a_score_that_hardly_varies_is_no_difference() -> None:
    def rounded(batch: Floats) -> Floats:
        return np.nextafter(saturated(batch), np.float32(0))

    require("rounding", compare(saturated, rounded, feeds(1, 4, count=32)))


def depths(batch: Floats) -> Floats:
    """A distance in meters beside an angle."""
    found = batch @ MATRIX[:, :2]
    return np.asarray(np.array([40, 0]) + found * np.array([10, 1]), np.float32)


SCORED = feeds(4, 20, seed=2)[0]


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(("network", "first_lost"), [(detections, 4), (normalised, 4), (depths, 1)])
def test_a_small_output_that_is_lost_beside_a_large_one_is_caught(
    network: Network, first_lost: int, precision: Precision
) -> None:
    def loses(batch: Floats) -> Floats:
        found = network(batch)
        found[:, first_lost:] = 0
        return found

    inputs = feeds(1, 4, count=32)
    require("nothing", compare(network, network, inputs), precision)
    found = compare(network, loses, inputs)
    with pytest.raises(StageError, match="of its spread"):
        require("losing", found, precision)


def test_scores_of_classes_that_no_input_shows_may_be_rounded_away() -> None:
    """Class 1 is never above a thousandth: what it loses is little beside what class 0 tells."""

    def network(batch: Floats) -> Floats:
        shown = 1 / (1 + np.exp(-batch[:, :1]))
        return np.concatenate([shown, 1e-3 * (1 - shown)], 1).astype(np.float32)

    def rounded(batch: Floats) -> Floats:
        return (np.rint(network(batch) * 255) / 255).astype(np.float32)

    require("rounding", compare(network, rounded, feeds(1, 4, count=32)), "int8")


def test_an_output_that_lies_between_0_and_1_on_a_few_inputs_is_no_score() -> None:
    """One of a thousand, as ResNet-152 gives it in float64 and torch and ONNX Runtime round it."""
    true = np.array([0.89752, 0.87617, 0.79049, 0.76199])
    by_torch, by_runtime = np.array([[5, 2, -3, -12], [11, 3, -3, -1]]) * 1e-5 + true

    def network(column: Floats, largest: float = 6.76) -> Network:
        return lambda _: np.stack([column, largest * np.arange(1, -1, -0.5)], 1, dtype=np.float32)

    found = compare(network(by_torch), network(by_runtime), INPUTS[:1])
    assert found.worst_column == "column 0 of axis 1"
    require("rounding", found)
    lost = compare(network(by_torch), network(by_torch * 0 + true.mean()), INPUTS[:1])
    with pytest.raises(StageError, match="column 0 of axis 1 off by"):
        require("losing", lost)


def test_values_of_anchors_are_columns_too() -> None:
    """[n, anchors, values]: losing one value of all anchors is losing a column."""

    def network(batch: Floats) -> Floats:
        found = np.stack([30 + 10 * batch, batch], 2)
        return found.astype(np.float32)

    def loses(batch: Floats) -> Floats:
        return network(batch) * np.array([1, 0], np.float32)

    found = compare(network, loses, feeds(1, 4, count=16))
    assert found.worst_column == "column 1 of axis 2"
    assert found.column_error == pytest.approx(1, abs=0.05)
