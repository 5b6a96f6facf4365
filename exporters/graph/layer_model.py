"""One layer as an ONNX model of its own, several times side by side, to be timed."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.graph.layer_shape import LayerShape

OPSET = 20
FEWEST, MOST = 4, 16
MACS = 20_000_000
"""A call has about so many, which take long beside what a runtime does before and after it."""


def copies_of(shape: LayerShape) -> int:
    """How many layers of this shape are timed side by side."""
    return min(MOST, max(FEWEST, MACS // max(1, shape.macs())))


def side_by_side(shape: LayerShape, batch: int, copies: int) -> onnx.ModelProto:
    """Layers that read the same `batch` samples, with weights of their own, and their sum.

    Their sum is what runtimes compute inside of the layers' own kernels; what is done once to
    inputs and outputs, such as putting channels into blocks, is shared by all of them.
    """
    random = np.random.default_rng(0)
    nodes, tensors = [], []
    for copy in range(copies):
        names = ["x", f"weight{copy}", f"bias{copy}"]
        weight = random.normal(0, 0.1, _weight_shape(shape)).astype(np.float32)
        bias = np.zeros(shape.outputs, np.float32)
        tensors += [numpy_helper.from_array(weight, names[1])]
        tensors += [numpy_helper.from_array(bias, names[2])]
        nodes += _layer(shape, names, f"layer{copy}")
    total = "layer0"
    for copy in range(1, copies):
        nodes.append(helper.make_node("Add", [total, f"layer{copy}"], [f"sum{copy}"]))
        total = f"sum{copy}"
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", float32, _input_shape(shape, batch))],
        [helper.make_tensor_value_info(total, float32, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _layer(shape: LayerShape, names: list[str], output: str) -> list[onnx.NodeProto]:
    if shape.kind == "linear" and not shape.positions:
        return [helper.make_node("Gemm", names, [output])]
    if shape.kind == "linear":
        product = helper.make_node("MatMul", names[:2], [f"{output} product"])
        return [product, helper.make_node("Add", [f"{output} product", names[2]], [output])]
    operator = "Conv" if shape.kind == "convolution" else "ConvTranspose"
    node = helper.make_node(
        operator,
        names,
        [output],
        kernel_shape=shape.kernel,
        strides=shape.stride,
        dilations=shape.dilation,
        pads=shape.padding,
        group=shape.groups,
    )
    if shape.output_padding:
        node.attribute.append(helper.make_attribute("output_padding", shape.output_padding))
    return [node]


def _weight_shape(shape: LayerShape) -> tuple[int, ...]:
    if shape.kind == "convolution":
        return (shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    return (shape.inputs, shape.outputs // shape.groups, *shape.kernel)


def _input_shape(shape: LayerShape, batch: int) -> tuple[int, ...]:
    if shape.kind == "linear":
        return (batch, *shape.positions, shape.inputs)
    return (batch, shape.inputs, *shape.positions)
