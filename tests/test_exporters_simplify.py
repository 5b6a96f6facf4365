"""Simplifying: fewer nodes or as many, the same answers, and no path ever."""

import numpy as np
import onnx
import pytest
from graphs import Arrays, Floats, feeds, model, ones
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Concat, trained
from onnx import helper, numpy_helper

from exporters.engines.ort import plain_network
from exporters.parity import FP32_TOLERANCE
from exporters.simplify import simplify
from exporters.to_onnx import to_onnx
from profiles.errors import StageError

node = helper.make_node


def answers(graph: onnx.ModelProto, inputs: list[Floats]) -> list[Floats]:
    network = plain_network(graph.SerializeToString())
    return [network(feed) for feed in inputs]


def wordy() -> onnx.ModelProto:
    """y = 6 x, in five nodes of which one is needed."""
    two = numpy_helper.from_array(np.array([2], np.float32))
    nodes = [
        node("Constant", [], ["two"], value=two),
        node("Mul", ["two", "three"], ["six"]),
        node("Identity", ["x"], ["same"]),
        node("Dropout", ["same"], ["kept"]),
        node("Mul", ["kept", "six"], ["y"]),
    ]
    return model(nodes, [1, 4], [1, 4], {"three": np.array([3], np.float32)})


def test_constants_are_folded_and_idle_nodes_go() -> None:
    lean, parity = simplify(wordy(), feeds(1, 4))
    assert [one.op_type for one in lean.graph.node if one.op_type != "Constant"] == ["Mul"]
    assert len(lean.graph.node) < len(wordy().graph.node)
    assert parity.error == 0
    assert np.array_equal(answers(lean, [ones(1, 4)])[0], 6 * ones(1, 4))


def test_a_lean_graph_stays_as_it_is() -> None:
    graph = model([node("Gemm", ["x", "w"], ["y"])], [1, 4], [1, 3], {"w": ones(4, 3)})
    lean, _ = simplify(graph, feeds(1, 4))
    assert [one.op_type for one in lean.graph.node] == ["Gemm"]


def test_the_graph_given_is_left_alone() -> None:
    graph = wordy()
    before = graph.SerializeToString()
    simplify(graph, feeds(1, 4))
    assert graph.SerializeToString() == before


def test_an_exported_network_stays_the_same_network() -> None:
    inputs = [*feeds(1, 3, 8, 8), *feeds(5, 3, 8, 8, count=1)]
    exported = to_onnx(trained(Concat), inputs, opset=20, dynamic_batch=True).model
    lean, parity = simplify(exported, inputs)
    again, _ = simplify(exported, inputs)
    assert lean.SerializeToString() == again.SerializeToString()
    assert len(lean.graph.node) <= len(exported.graph.node)
    assert parity.error <= FP32_TOLERANCE
    fresh = feeds(3, 3, 8, 8, seed=9)
    for want, found in zip(answers(exported, fresh), answers(lean, fresh), strict=True):
        assert np.allclose(want, found, atol=1e-4)


UNARY = ("Relu", "Sigmoid", "Neg", "Identity", "Abs", "Tanh")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(UNARY)
        | st.tuples(st.sampled_from(("Add", "Mul")), st.floats(-2, 2, width=32)),
        min_size=1,
        max_size=6,
    )
)
def test_no_chain_of_ops_grows_or_changes(ops: list[str | tuple[str, float]]) -> None:
    nodes, weights = [node("MatMul", ["x", "w"], ["v0"])], {"w": feeds(4, 3)[0]}
    for place, op in enumerate(ops):
        names, value = [f"v{place}"], f"v{place + 1}"
        if isinstance(op, tuple):
            weights[f"c{place}"] = np.array([op[1]], np.float32)
            names, op = [*names, f"c{place}"], op[0]
        nodes.append(node(op, names, [value]))
    # A chain that ends in a constant, such as times 0, is refused: it would prove nothing.
    nodes.append(node("Add", [f"v{len(ops)}", "v0"], ["y"]))
    arrays: Arrays = weights
    graph = model(nodes, [1, 4], [1, 3], arrays)
    inputs = feeds(1, 4)
    if all(np.array_equal(one, answers(graph, inputs)[0]) for one in answers(graph, inputs)):
        return
    lean, parity = simplify(graph, inputs)
    assert len(lean.graph.node) <= len(graph.graph.node)
    assert parity.error <= FP32_TOLERANCE


def broken(kind: str) -> onnx.ModelProto:
    graph = wordy()
    if kind == "unknown op":
        graph.graph.node[2].op_type = "NoSuchOp"
    if kind == "dangling input":
        graph.graph.node[4].input[0] = "nowhere"
    if kind == "wrong shape":
        graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    return graph


@pytest.mark.parametrize("kind", ["unknown op", "dangling input", "wrong shape"])
def test_a_graph_that_is_not_valid_is_refused(kind: str) -> None:
    with pytest.raises(StageError, match="simplifying failed"):
        simplify(broken(kind), feeds(1, 4))


def test_a_graph_that_answers_nan_is_refused() -> None:
    graph = model([node("Log", ["x"], ["y"])], [1, 4], [1, 4])
    with pytest.raises(StageError, match="NaN"):
        simplify(graph, [-ones(1, 4)])
