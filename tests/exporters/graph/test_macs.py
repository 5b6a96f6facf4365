"""MACs and parameters: by hand for each op, and as torch counts them for whole networks."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torchvision
from networks import Concat, Grouped, trained
from onnx import helper, numpy_helper
from onnx_graphs import Arrays, Shape, feeds, model, ones
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exporters.graph.cost import Cost, LayerCost
from exporters.graph.macs import count, layer_costs
from exporters.graph.to_onnx import to_onnx
from profiles.errors import StageError

node = helper.make_node


def cost(nodes: list[onnx.NodeProto], x: Shape, y: Shape, weights: Arrays | None = None) -> Cost:
    return count(model(nodes, x, y, weights))


def test_a_convolution_is_its_outputs_times_its_window() -> None:
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    found = cost([conv], [1, 4, 8, 8], [1, 6, 8, 8], {"w": ones(6, 4, 3, 3)})
    assert found == Cost(macs=6 * 8 * 8 * 4 * 3 * 3, parameters=6 * 4 * 3 * 3)


def test_groups_and_stride_divide_the_macs_of_a_convolution() -> None:
    conv = node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=2)
    weights = {"w": ones(6, 2, 3, 3), "b": ones(6)}
    found = cost([conv], [1, 4, 8, 8], [1, 6, 4, 4], weights)
    assert found == Cost(macs=6 * 4 * 4 * 2 * 3 * 3, parameters=6 * 2 * 3 * 3 + 6)


@pytest.mark.parametrize(("group", "out"), [(1, 3), (2, 6)])
def test_a_transposed_convolution_is_its_inputs_times_its_window(group: int, out: int) -> None:
    conv = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=group)
    found = cost([conv], [1, 4, 5, 5], [1, out, 10, 10], {"w": ones(4, 3, 2, 2)})
    assert found.macs == 4 * 5 * 5 * 3 * 2 * 2


@pytest.mark.parametrize(("transposed", "shape"), [(0, (5, 7)), (1, (7, 5))])
def test_a_gemm_is_rows_times_columns_times_depth(transposed: int, shape: tuple[int, int]) -> None:
    gemm = node("Gemm", ["x", "w"], ["y"], transB=transposed)
    assert cost([gemm], [1, 5], [1, 7], {"w": ones(*shape)}) == Cost(macs=35, parameters=35)


def test_a_gemm_on_a_transposed_input_counts_the_same() -> None:
    nodes = [node("Transpose", ["x"], ["t"]), node("Gemm", ["t", "w"], ["y"], transA=1)]
    assert cost(nodes, [1, 5], [1, 7], {"w": ones(5, 7)}).macs == 35


def test_a_matrix_product_counts_every_matrix_of_its_batch() -> None:
    assert cost([node("MatMul", ["x", "w"], ["y"])], [1, 3, 4], [1, 3, 5], {"w": ones(4, 5)}) == (
        Cost(macs=3 * 5 * 4, parameters=20)
    )
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "t"], ["y"]),
    ]
    assert cost(nodes, [1, 2, 3, 4], [1, 2, 3, 3]) == Cost(macs=2 * 3 * 3 * 4, parameters=0)


@pytest.mark.parametrize("batch", [1, 8, "batch"])
def test_the_macs_are_those_of_one_sample(batch: int | str) -> None:
    gemm = node("Gemm", ["x", "w"], ["y"])
    assert cost([gemm], [batch, 5], [batch, 7], {"w": ones(5, 7)}).macs == 35


def test_element_wise_work_is_free() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Add", ["r", "x"], ["y"])]
    assert cost(nodes, [1, 5], [1, 5]) == Cost(macs=0, parameters=0)


def test_numbers_that_are_no_weights_are_no_parameters() -> None:
    reshape = node("Reshape", ["x", "shape"], ["y"])
    assert cost([reshape], [1, 6], [1, 2, 3], {"shape": np.array([1, 2, 3])}).parameters == 0


def test_a_weight_kept_in_a_node_is_a_parameter_too() -> None:
    held = node("Constant", [], ["w"], value=numpy_helper.from_array(ones(5, 7)))
    nodes = [held, node("MatMul", ["x", "w"], ["y"])]
    assert cost(nodes, [1, 5], [1, 7]) == Cost(macs=35, parameters=35)


@pytest.mark.parametrize(
    "unknown",
    [
        node("Einsum", ["x", "x"], ["y"], equation="ij,ij->ij"),
        node("Conv", ["x"], ["y"], domain="com.example"),
        node("Relu", ["x"], ["y"], domain="com.example"),
        node("HannWindow", ["x"], ["y"], name="window"),
    ],
    ids=lambda unknown: f"{unknown.domain} {unknown.op_type}",
)
@pytest.mark.parametrize("used", [True, False])
def test_an_unknown_op_is_refused_by_name(unknown: onnx.NodeProto, used: bool) -> None:
    known = node("Relu", ["x"], ["y"])
    broken = model([known], [1, 5], [1, 5])
    if used:
        broken.graph.node[0].CopyFrom(unknown)
    else:
        broken.graph.node.append(unknown)
        broken.graph.node[1].output[0] = "z"
    with pytest.raises(StageError, match=unknown.op_type):
        count(broken)


@pytest.mark.parametrize("shape", [[1, 3, "h", 8], [1, 3, None, 8], [None, 3, 8, 8]])
def test_a_dimension_that_is_not_fixed_is_refused(shape: Shape) -> None:
    conv = node("Conv", ["x", "w"], ["y"], name="first")
    y = [shape[0], 4, shape[2], 8]
    with pytest.raises(StageError, match="first"):
        cost([conv], shape, y, {"w": ones(4, 3, 1, 1)})


def test_an_output_that_does_not_follow_the_batch_is_refused() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Concat", ["m", "m"], ["y"], axis=0)]
    with pytest.raises(StageError, match="batch of one"):
        cost(nodes, ["batch", 5], ["twice", 7], {"w": ones(5, 7)})


def test_each_layer_is_named_by_its_weight_and_told_with_its_channels() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="first"),
        node("Relu", ["c"], ["r"]),
        node("MatMul", ["r", "r"], ["y"], name="second"),
    ]
    graph = model(nodes, ["batch", 4, 8, 8], ["batch", 6, 8, 8], {"w": ones(6, 4, 1, 1)})
    assert layer_costs(graph) == (
        LayerCost(name="w", op="Conv", macs=6 * 8 * 8 * 4, channels=6),
        LayerCost(name="second", op="MatMul", macs=6 * 8 * 8 * 8, channels=8),
    )


def test_counting_changes_nothing() -> None:
    graph = model([node("Gemm", ["x", "w"], ["y"])], ["batch", 5], ["batch", 7], {"w": ones(5, 7)})
    before = graph.SerializeToString()
    count(graph)
    assert graph.SerializeToString() == before


def resnet() -> nn.Module:
    network: nn.Module = torchvision.models.resnet18(weights=None, num_classes=10)
    return network


def mobilenet() -> nn.Module:
    network: nn.Module = torchvision.models.mobilenet_v3_small(weights=None, num_classes=10)
    return network


def squeezenet() -> nn.Module:
    network: nn.Module = torchvision.models.squeezenet1_1(weights=None, num_classes=10)
    return network


@pytest.mark.parametrize(
    ("build", "size", "dynamic"),
    [
        (resnet, 64, False),
        (mobilenet, 64, True),
        (squeezenet, 64, False),
        (lambda: trained(Concat), 8, True),
        (lambda: trained(Grouped), 8, False),
    ],
    ids=["resnet18", "mobilenet_v3_small", "squeezenet1_1", "concat", "grouped"],
)
def test_a_networks_macs_are_those_torch_counts(
    build: Callable[[], nn.Module], size: int, dynamic: bool
) -> None:
    torch.manual_seed(0)
    network = build().eval()
    inputs = feeds(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.from_numpy(inputs[0]))
    exported = to_onnx(network, inputs, opset=20, dynamic_batch=dynamic)
    assert 2 * count(exported.model).macs == counter.get_total_flops()
