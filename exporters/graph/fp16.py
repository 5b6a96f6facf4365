"""fp32 ONNX -> fp16 ONNX: typed in the file, and refused where a value could overflow."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from exporters.arrays import FloatArray
from exporters.graph.canonical import canonical
from exporters.graph.node_names import kernel_names
from exporters.graph.reference import plain_outputs
from profiles.errors import StageError

LIMIT = 65504 / 4
"""A quarter of the largest fp16 number: images that were not looked at may give more."""
WEIGHT_LIMIT = 65504.0


def to_fp16(model: onnx.ModelProto, feeds: Sequence[FloatArray]) -> onnx.ModelProto:
    """The model with fp16 weights and activations; inputs and outputs stay fp32.

    Raises StageError naming the tensor that comes too near to the largest number on `feeds`.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
            _require(tensor.name, largest, WEIGHT_LIMIT)
    for name, largest in activation_ranges(model, feeds).items():
        _require(name, largest, LIMIT)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        half = convert_float_to_float16(copy, keep_io_types=True)
        # The casts of inputs and outputs come last, wherever they belong.
        half = onnx.ModelProto.FromString(
            canonical(half.SerializeToString(), kernel_names(half, model))
        )
        onnx.checker.check_model(half, full_check=True)
    except Exception as error:  # the converter raises bare errors
        raise StageError(f"converting to fp16 failed: {error}") from error
    found: onnx.ModelProto = half
    return found


def activation_ranges(model: onnx.ModelProto, feeds: Sequence[FloatArray]) -> dict[str, float]:
    """The largest absolute value of every float tensor that the nodes give."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    outputs = {value.name for value in inferred.graph.output}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    for node in model.graph.node:
        for name in node.output:
            if types.get(name) == onnx.TensorProto.FLOAT and name not in outputs:
                exposed.graph.output.append(
                    onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                )
    run = plain_outputs(exposed.SerializeToString())
    largest: dict[str, float] = {}
    for feed in feeds:
        for name, value in run(feed).items():
            if value.dtype.kind == "f":
                found = float(np.abs(value).max(initial=0))
                largest[name] = float(np.fmax(largest.get(name, 0.0), found))
                if not np.isfinite(value).all():
                    raise StageError(f"{name} is NaN or infinite already at fp32")
    return largest


def _require(name: str, largest: float, limit: float) -> None:
    if not largest <= limit:
        raise StageError(
            f"fp16 could overflow: {name} reaches {largest:.3g}, allowed {limit:.0f}; "
            "use fp32 or int8"
        )
