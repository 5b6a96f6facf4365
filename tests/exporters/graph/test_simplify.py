"""Simplifying: fewer nodes or as many, the same answers, and no path ever."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from networks import Concat, trained
from onnx import helper, numpy_helper
from onnx_graphs import Arrays, Floats, feeds, model, ones

from exporters.graph.reference import plain_network
from exporters.graph.simplify import SIMPLIFIERS, simplify, without_duplicates
from exporters.graph.to_onnx import to_onnx
from exporters.parity import TOLERANCES
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
    found = simplify(wordy(), feeds(1, 4))
    lean = found.model
    assert found.method in SIMPLIFIERS
    assert [one.op_type for one in lean.graph.node if one.op_type != "Constant"] == ["Mul"]
    assert len(lean.graph.node) < len(wordy().graph.node)
    assert found.parity.error == 0
    assert np.array_equal(answers(lean, [ones(1, 4)])[0], 6 * ones(1, 4))


def test_a_lean_graph_stays_as_it_is() -> None:
    graph = model([node("Gemm", ["x", "w"], ["y"])], [1, 4], [1, 3], {"w": ones(4, 3)})
    found = simplify(graph, feeds(1, 4))
    assert [one.op_type for one in found.model.graph.node] == ["Gemm"]


def test_a_model_that_simplifiers_cannot_hold_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporters.graph.simplify.LARGEST", 50)
    found = simplify(wordy(), feeds(1, 4))
    assert (found.method, found.model) == ("none", wordy())
    assert "simplifiers crash above" in found.refused[0]


def test_a_lack_of_memory_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(graph: onnx.ModelProto) -> onnx.ModelProto:
        bytes(1 << 60)
        return graph

    monkeypatch.setattr("exporters.graph.simplify.SIMPLIFIERS", {"greedy": greedy})
    with pytest.raises(StageError, match=r"(?s)^simplifying takes more memory .*greedy: MemoryE"):
        simplify(wordy(), feeds(1, 4))


@pytest.mark.parametrize("method", SIMPLIFIERS)
def test_the_leaner_of_two_results_is_kept_and_one_alone_will_do(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(graph: onnx.ModelProto) -> onnx.ModelProto:
        graph.graph.node[1].op_type = "Add"
        return SIMPLIFIERS[method](graph)

    def breaks(graph: onnx.ModelProto) -> onnx.ModelProto:
        raise RuntimeError("core dumped")

    real = SIMPLIFIERS[method]
    monkeypatch.setattr("exporters.graph.simplify.SIMPLIFIERS", {"other": breaks, method: real})
    found = simplify(wordy(), feeds(1, 4))
    assert (found.method, found.refused) == (method, ("other: core dumped",))
    monkeypatch.setattr("exporters.graph.simplify.SIMPLIFIERS", {"other": breaks, method: changes})
    with pytest.raises(StageError, match=r"(?s)no simplifier .*changed the network"):
        simplify(wordy(), feeds(1, 4))


def test_a_weight_stored_twice_is_kept_once_and_an_idle_one_not_at_all() -> None:
    weights = {"a": ones(4), "b": ones(4), "idle": ones(7)}
    nodes = [node("Add", ["x", "a"], ["h"]), node("Mul", ["h", "b"], ["y"])]
    graph = without_duplicates(model(nodes, [1, 4], [1, 4], weights)).graph
    assert [tensor.name for tensor in graph.initializer] == ["a"]
    assert [list(one.input) for one in graph.node] == [["x", "a"], ["h", "a"]]


def test_the_graph_given_is_left_alone() -> None:
    graph = wordy()
    before = graph.SerializeToString()
    simplify(graph, feeds(1, 4))
    assert graph.SerializeToString() == before


def test_an_exported_network_stays_the_same_network() -> None:
    inputs = [*feeds(1, 3, 8, 8), *feeds(5, 3, 8, 8, count=1)]
    exported = to_onnx(trained(Concat), inputs, opset=20, dynamic_batch=True).model
    found = simplify(exported, inputs)
    lean, parity = found.model, found.parity
    again = simplify(exported, inputs).model
    assert lean.SerializeToString() == again.SerializeToString()
    assert len(lean.graph.node) <= len(exported.graph.node)
    assert parity.error <= TOLERANCES["fp32"].error
    fresh = feeds(3, 3, 8, 8, seed=9)
    for want, got in zip(answers(exported, fresh), answers(lean, fresh), strict=True):
        assert np.allclose(want, got, atol=1e-4)


UNARY = ("Relu", "Sigmoid", "Neg", "Identity", "Abs", "Tanh")


Op = str | tuple[str, float]


def chain(ops: Sequence[Op]) -> onnx.ModelProto:
    """One op after the other; a tuple is an op with a constant."""
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
    return model(nodes, [1, 4], [1, 3], arrays)


def test_no_chain_of_ops_grows_or_changes() -> None:
    reached = set()
    inputs = feeds(1, 4)

    @settings(max_examples=25, deadline=None)
    @example(["Relu"])
    @example(["Identity", "Identity", "Relu"])
    @given(
        st.lists(
            st.sampled_from(UNARY)
            | st.tuples(st.sampled_from(("Add", "Mul")), st.floats(-2, 2, width=32)),
            min_size=1,
            max_size=6,
        )
    )
    def holds(ops: list[Op]) -> None:
        graph = chain(ops)
        first, *others = answers(graph, inputs)
        assume(not all(np.array_equal(one, first) for one in others))
        found = simplify(graph, inputs)
        assert len(found.model.graph.node) <= len(graph.graph.node)
        assert found.parity.error <= TOLERANCES["fp32"].error
        reached.add(len(found.model.graph.node) < len(graph.graph.node))

    holds()
    assert reached == {True, False}


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
