"""Small ONNX graphs written by hand, and inputs for them."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.float32 | np.int64]]
Shape = Sequence[int | str | None]


def model(
    nodes: Sequence[onnx.NodeProto], x: Shape, y: Shape, weights: Arrays | None = None
) -> onnx.ModelProto:
    """A graph from the float input "x" to the float output "y"."""
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
        for name, shape in (("x", x), ("y", y))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "network", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def ones(*shape: int) -> Floats:
    return np.ones(shape, np.float32)


def linear() -> onnx.ModelProto:
    """y = [x0 + 2 x1 + 10, 3 x0 + 4 x1 + 20]."""
    weights = {
        "w": np.array([[1, 3], [2, 4]], np.float32),
        "b": np.array([10, 20], np.float32),
    }
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    return model([gemm], ["batch", 2], ["batch", 2], weights)


def feeds(*shape: int, count: int = 3, seed: int = 0) -> list[Floats]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape, np.float32) for _ in range(count)]
