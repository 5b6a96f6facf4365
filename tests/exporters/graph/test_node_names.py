"""What the nodes of a graph are called: after the modules of the network."""

import onnx
import pytest
import torch
from networks import Residual, trained
from onnx_graphs import feeds
from torch import Tensor, nn

from exporters.graph.canonical import canonical
from exporters.graph.fp16 import to_fp16
from exporters.graph.node_names import free_name, kernel_names
from exporters.graph.simplify import SIMPLIFIERS
from exporters.graph.to_onnx import cleaned, export_by, to_onnx

OF_RESIDUAL = [
    "stem/Conv",
    "relu/Relu",
    "inner.0/Conv",
    "relu/Relu_2",
    "outer.0/Conv",
    "Add",
    "relu/Relu_3",
    "inner.1/Conv",
    "relu/Relu_4",
    "outer.1/Conv",
    "Add_2",
    "relu/Relu_5",
    "ReduceMean",
    "fc/Gemm",
]


class Twice(nn.Module):
    """One convolution called twice, one without a module, and a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.tail = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardswish()), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(torch.relu(self.shared(x)))
        tail: Tensor = self.tail(nn.functional.conv2d(x, self.kernel))
        return tail


def names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


@pytest.fixture(scope="module")
def residual() -> onnx.ModelProto:
    return to_onnx(trained(Residual), feeds(1, 3, 8, 8), opset=20, dynamic_batch=False).model


def test_nodes_and_values_are_named_after_modules(residual: onnx.ModelProto) -> None:
    """Its batch norms are folded into the convolutions, which keep their own modules' names."""
    assert names(residual) == OF_RESIDUAL
    values = [name for node in residual.graph.node for name in node.output]
    assert values == [*OF_RESIDUAL[:-1], "output"]
    assert [value.name for value in residual.graph.input] == ["input"]


def test_names_are_distinct_where_a_module_is_called_twice() -> None:
    found = to_onnx(Twice().eval(), feeds(1, 4, 6, 6), opset=20, dynamic_batch=False).model
    assert names(found) == [
        *("shared/Conv", "Relu", "shared/Conv_2", "Conv"),
        *("tail.0.0/Conv", "tail.0.1/HardSwish", "tail.1/Reshape"),
    ]


def test_a_graph_of_the_other_exporter_keeps_its_names() -> None:
    found, _ = export_by("torchscript", Twice().eval(), feeds(1, 4, 6, 6), 20, False)
    assert "/tail/tail.0/tail.0.0/Conv" in names(found)


@pytest.mark.parametrize("simplifier", SIMPLIFIERS)
def test_simplifiers_keep_the_names(simplifier: str, residual: onnx.ModelProto) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(residual)
    assert names(cleaned(SIMPLIFIERS[simplifier](copy))) == OF_RESIDUAL


def test_half_precision_keeps_the_names(residual: onnx.ModelProto) -> None:
    found = names(to_fp16(residual, feeds(1, 3, 8, 8)))
    assert [name for name in found if name in OF_RESIDUAL] == OF_RESIDUAL
    assert len(found) > len(OF_RESIDUAL)  # with casts, which are numbered


def test_what_onnx_runtime_adds_to_a_name_is_taken_away() -> None:
    """Names that it gave, and the graph above: a sum with one convolution is computed by that."""
    model = named("stem/Conv", "Relu", "left/Conv", "Add", "Relu_2", "right/Conv")
    kernels = {
        "stem/Conv": "stem/Conv",
        "left/Conv_token_7": "left/Conv",
        "Relu_nchwc": "stem/Conv",
        "InsertedPrecisionFreeCast_Relu_2_nchwc": "left/Conv",
        "Add_nchwc": "left/Conv",
        "ReorderOutput_token_3": None,
        "other_nchwc": None,
    }
    made = onnx.ModelProto()
    made.graph.node.extend(onnx.NodeProto(op_type="Conv", name=name) for name in kernels)
    assert kernel_names(made, model) == {k: v for k, v in kernels.items() if v}


def named(*nodes: str) -> onnx.ModelProto:
    """Nodes in a row, each named by what it is, with values named after them."""
    model = onnx.ModelProto()
    before = "x"
    for name in nodes:
        kind = name.rpartition("/")[2].partition("_")[0]
        given = [before, "Relu"] if kind == "Add" else [before]
        model.graph.node.append(onnx.helper.make_node(kind, given, [name], name=name))
        before = name
    return model


def test_the_layer_of_a_sum_of_two_layers_is_not_guessed() -> None:
    model = onnx.ModelProto()
    for name, given in (("a/Conv", "x"), ("b/Conv", "x")):
        model.graph.node.append(onnx.helper.make_node("Conv", [given, "w"], [name], name=name))
    model.graph.node.append(onnx.helper.make_node("Add", ["a/Conv", "b/Conv"], ["Add"], name="Add"))
    made = onnx.ModelProto()
    made.graph.node.append(onnx.NodeProto(op_type="Conv", name="Add_nchwc"))
    assert kernel_names(made, model) == {"Add_nchwc": "Add"}


def test_a_canonical_graph_has_the_names_it_is_given_and_numbers_the_rest(
    residual: onnx.ModelProto,
) -> None:
    raw = residual.SerializeToString()
    given = {"stem/Conv": "first", "fc/Gemm": "last"}
    found = onnx.ModelProto.FromString(canonical(raw, given))
    assert names(found)[0] == "first"
    assert names(found)[-1] == "last"
    assert names(found)[1] == "Relu_1"
    assert [value.name for value in found.graph.output] == ["output"]


def test_a_taken_name_gets_a_number() -> None:
    assert free_name("a", set()) == "a"
    assert free_name("a", {"a", "a_2"}) == "a_3"
