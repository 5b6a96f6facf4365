"""One graph, one file, whatever order and names its builder took."""

import random

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.graph.canonical import canonical
from exporters.graph.reference import plain_network


def branches(order: list[int], names: list[str]) -> bytes:
    """y = relu(x + 1) * sigmoid(x - 2), its nodes in `order` and its values called `names`."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    plus, minus, left, right = names
    nodes = [
        helper.make_node("Add", ["x", "one"], [plus], name=f"a{plus}"),
        helper.make_node("Sub", ["x", "two"], [minus], name=f"b{plus}"),
        helper.make_node("Relu", [plus], [left]),
        helper.make_node("Sigmoid", [minus], [right]),
        helper.make_node("Mul", [left, right], ["y"]),
    ]
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([nodes[i] for i in order], "g", io[:1], io[1:], [one, two])
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    raw: bytes = model.SerializeToString()
    return raw


def test_order_and_names_of_the_builder_leave_no_trace() -> None:
    shuffled = random.Random(0)
    found = set()
    for order in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 2, 1, 3, 4], [1, 3, 0, 2, 4]):
        names = [f"v{shuffled.randrange(10**6)}" for _ in range(4)]
        found.add(canonical(branches(order, names)))
    assert len(found) == 1


def test_the_canonical_graph_is_valid_and_computes_the_same() -> None:
    raw = branches([0, 1, 2, 3, 4], ["a", "b", "c", "d"])
    model = onnx.ModelProto.FromString(canonical(raw))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["y"]
    x = np.array([[-3.0, 0.5, 4.0]], np.float32)
    assert np.array_equal(plain_network(canonical(raw))(x), plain_network(raw)(x))


def test_a_different_graph_stays_different() -> None:
    raw = branches([0, 1, 2, 3, 4], ["a", "b", "c", "d"])
    model = onnx.ModelProto.FromString(raw)
    model.graph.node[3].op_type = "Tanh"
    assert canonical(model.SerializeToString()) != canonical(raw)


def test_a_weight_that_bears_a_name_of_an_earlier_pass_stays_the_only_one_of_it() -> None:
    """Folding constants turns a value into a weight, and the weight keeps the value's name."""
    raw = branches([0, 1, 2, 3, 4], ["a", "b", "c", "d"])
    model = onnx.ModelProto.FromString(raw)
    first = onnx.ModelProto.FromString(canonical(raw)).graph.node[0].output[0]
    model.graph.initializer[0].name = first
    model.graph.node[0].input[1] = first
    found = canonical(model.SerializeToString())
    onnx.checker.check_model(onnx.ModelProto.FromString(found), full_check=True)
    x = np.array([[-3.0, 0.5, 4.0]], np.float32)
    assert np.array_equal(plain_network(found)(x), plain_network(raw)(x))
