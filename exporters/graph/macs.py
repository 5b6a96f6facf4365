"""MACs and parameters of an ONNX graph: what ships, counted on what ships. 1 MAC = 2 FLOPs."""

import math

import onnx

from exporters.graph.cost import Cost, LayerCost
from profiles.errors import StageError

Shape = tuple[int, ...]

FREE_OPS = frozenset(
    """Add Sub Mul Div Pow Neg Abs Sqrt Exp Log Erf Reciprocal Clip Min Max Floor Ceil Round Sign
    Relu LeakyRelu PRelu Elu Selu Celu Gelu Mish Sigmoid HardSigmoid HardSwish Swish Tanh Softplus
    Softsign Softmax LogSoftmax BatchNormalization InstanceNormalization LayerNormalization
    GroupNormalization RMSNormalization LRN LpNormalization
    Cast Constant ConstantOfShape Identity Dropout Shape Size Range
    Concat Split Slice Gather GatherElements GatherND Reshape Flatten Transpose Squeeze Unsqueeze
    Expand Tile Pad Where Equal Greater Less GreaterOrEqual LessOrEqual And Or Not Mod CumSum
    DepthToSpace SpaceToDepth Resize Upsample Trilu ScatterND ArgMax ArgMin TopK
    AveragePool MaxPool GlobalAveragePool GlobalMaxPool LpPool
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceProd Sum Mean""".split()
)
"""Ops counted as no MACs: element-wise work, pooling, movement of data."""


def count(model: onnx.ModelProto) -> Cost:
    """MACs of `layer_costs`, and trained values; raises the same."""
    macs = sum(layer.macs for layer in layer_costs(model))
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    inline = (
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute
    )
    kept = [t for t in (*model.graph.initializer, *inline) if t.data_type in floats]
    return Cost(macs, sum(math.prod(tensor.dims) for tensor in kept))


def layer_costs(model: onnx.ModelProto) -> tuple[LayerCost, ...]:
    """Each Conv, ConvTranspose, Gemm and MatMul for a batch of one, in the graph's order.

    Raises StageError for a dimension that is not fixed (besides the batch) and for an op it
    does not know: a figure the gate trusts must not be too low.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = 1
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise StageError(f"the shapes do not follow from a batch of one: {error}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    weights = set(shapes)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim
        )
    batch = max(shapes[inferred.input[0].name][0], 1)
    found = []
    for node in inferred.node:
        if _is_free(node):
            continue
        named = next((name for name in node.input if name in weights), node.name)
        out = _shape(node.output[0], node, shapes)
        channels = out[1] if node.op_type.startswith("Conv") else out[-1]
        macs = _node_macs(node, shapes) // batch
        found.append(LayerCost(name=named, op=node.op_type, macs=macs, channels=channels))
    return tuple(found)


def _is_free(node: onnx.NodeProto) -> bool:
    standard = node.domain in ("", "ai.onnx")
    if standard and node.op_type in FREE_OPS:
        return True
    if not standard or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        raise StageError(f"MACs of {node.domain or 'onnx'}.{node.op_type} ({node.name}) unknown")
    return False


def _node_macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    first, weight, out = (_shape(name, node, shapes) for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * first[0 if transposed else 1]
    return math.prod(out) * first[-1]


def _shape(name: str, node: onnx.NodeProto, shapes: dict[str, Shape]) -> Shape:
    shape = shapes.get(name, (-1,))
    if any(dim < 0 for dim in shape):
        raise StageError(f"{node.op_type} ({node.name}) has a shape that is not fixed")
    return shape
