"""One layer as an ONNX model of its own, several times side by side, to be timed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.arrays import FloatArray
from exporters.exporter import Int8Format
from exporters.graph.layer_shape import LayerShape

OPSET = 20
FEWEST, MOST = 4, 16
MACS = 20_000_000
"""A call has about so many, which take long beside what a runtime does before and after it."""
MANY_MACS = 300_000_000
"""No layer of more is timed several times side by side."""
WEIGHTS = 16_000_000
"""All copies together have at most so many."""
ACTIVATION_SCALE, WEIGHT_SCALE = 0.02, 0.01
"""Of integers: neither values nor scales change what a kernel takes."""


def copies_of(shape: LayerShape) -> int:
    """How many layers of this shape are timed side by side; one where it is huge."""
    if shape.macs() > MANY_MACS:
        return 1
    wanted = min(MOST, max(FEWEST, MACS // max(1, shape.macs())))
    return max(1, min(wanted, WEIGHTS // max(1, shape.weights())))


def side_by_side(
    shape: LayerShape, batch: int, copies: int, int8: Int8Format | None = None
) -> onnx.ModelProto:
    """Layers that read the same `batch` samples, with weights of their own, and one output.

    What is done once to inputs and outputs, such as putting channels into blocks, is shared by all
    of them. At fp32 the output is their sum, which runtimes compute inside of the layers' own
    kernels; at int8 it is the sum of one position of each, since a sum of integers is a kernel of
    its own.
    """
    graph = _Graph()
    layers = [_weights(shape, copy) for copy in range(copies)]
    if int8 is None:
        parts = [
            graph.layer(shape, ["x", graph.constant(weight), graph.constant(bias)])
            for weight, bias in layers
        ]
    else:
        given = graph.dequantised(graph.quantised("x", int8), int8)
        parts = [_integer_layer(graph, shape, given, values, int8) for values in layers]
    total = parts[0]
    for part in parts[1:]:
        total = graph.node("Add", total, part)
    float32 = TensorProto.FLOAT
    proto = helper.make_graph(
        graph.nodes,
        "layer",
        [helper.make_tensor_value_info("x", float32, _input_shape(shape, batch))],
        [helper.make_tensor_value_info(total, float32, None)],
        graph.tensors,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@dataclass(frozen=True)
class _Graph:
    """Nodes and tensors under names that are their numbers."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """The name of a tensor that always holds `values`."""
        name = f"tensor{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: int | Sequence[int]) -> str:
        """The name of what a new node gives."""
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))  # type: ignore[arg-type]
        return name

    def layer(self, shape: LayerShape, inputs: Sequence[str]) -> str:
        """What the layer gives; `inputs` are its input, its weight and its bias."""
        if shape.kind == "linear" and not shape.positions:
            return self.node("Gemm", *inputs)
        if shape.kind == "linear":
            return self.node("Add", self.node("MatMul", *inputs[:2]), inputs[2])
        more = {"output_padding": shape.output_padding} if shape.output_padding else {}
        return self.node(
            "Conv" if shape.kind == "convolution" else "ConvTranspose",
            *inputs,
            kernel_shape=shape.kernel,
            strides=shape.stride,
            dilations=shape.dilation,
            pads=shape.padding,
            group=shape.groups,
            **more,
        )

    def quantised(self, value: str, int8: Int8Format) -> str:
        """Activations as the runtime's integer kernels take them."""
        return self.node("QuantizeLinear", value, *self._scale(int8))

    def dequantised(self, value: str, int8: Int8Format) -> str:
        """The same as numbers again."""
        return self.node("DequantizeLinear", value, *self._scale(int8))

    def _scale(self, int8: Int8Format) -> tuple[str, str]:
        unsigned = int8.unsigned_activations
        zero = self.constant(128, np.uint8) if unsigned else self.constant(0, np.int8)
        return self.constant(ACTIVATION_SCALE), zero


def _weights(shape: LayerShape, seed: int) -> tuple[FloatArray, FloatArray]:
    """Random weights, and a bias of zeros."""
    weight = np.random.default_rng(seed).normal(0, 0.1, _weight_shape(shape))
    return weight.astype(np.float32), np.zeros(shape.outputs, np.float32)


def _integer_layer(
    graph: _Graph,
    shape: LayerShape,
    given: str,
    values: tuple[FloatArray, FloatArray],
    int8: Int8Format,
) -> str:
    """One position of what the layer gives, its weights and its outputs in integers."""
    weight, bias = values
    integers = graph.constant(np.clip(np.round(weight / WEIGHT_SCALE), -127, 127), np.int8)
    scale, zero = graph.constant(WEIGHT_SCALE), graph.constant(0, np.int8)
    inputs = [given, graph.node("DequantizeLinear", integers, scale, zero), graph.constant(bias)]
    if int8.quantised_bias:
        scale = graph.constant(WEIGHT_SCALE * ACTIVATION_SCALE)
        integers, zero = graph.constant(bias, np.int32), graph.constant(0, np.int32)
        inputs[2] = graph.node("DequantizeLinear", integers, scale, zero)
    outputs = graph.quantised(graph.layer(shape, inputs), int8)
    axis = 1 if shape.kind == "linear" else 2
    ends = [graph.constant([place], np.int64) for place in (0, 1, axis)]
    return graph.dequantised(graph.node("Slice", outputs, *ends), int8)


def _weight_shape(shape: LayerShape) -> tuple[int, ...]:
    if shape.kind == "convolution":
        return (shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    return (shape.inputs, shape.outputs // shape.groups, *shape.kernel)


def _input_shape(shape: LayerShape, batch: int) -> tuple[int, ...]:
    first = batch * shape.repeats
    if shape.kind == "linear":
        return (first, *shape.positions, shape.inputs)
    return (first, shape.inputs, *shape.positions)
