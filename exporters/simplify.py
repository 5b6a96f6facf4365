"""ONNX -> leaner ONNX, checked before and after, and proven to be the same network."""

import onnx

from exporters.base import FloatArray
from exporters.engines.ort import plain_network
from exporters.parity import Parity, compare, require
from profiles.errors import StageError


def simplify(model: onnx.ModelProto, feeds: list[FloatArray]) -> tuple[onnx.ModelProto, Parity]:
    """Fold constants and fuse with onnxsim; the larger of the two graphs is never returned.

    onnxsim gets a loaded model, never a path: given a path it follows external data anywhere.
    """
    import onnxsim  # seconds to import, and not needed where the result is in the store

    try:
        onnx.checker.check_model(model, full_check=True)
        lean, _ = onnxsim.simplify(model)
        onnx.checker.check_model(lean, full_check=True)
    except Exception as error:  # onnxsim raises bare RuntimeErrors and its own C++ errors
        raise StageError(f"simplifying failed: {error}") from error
    smaller = lean if len(lean.graph.node) <= len(model.graph.node) else model
    parity = compare(
        plain_network(model.SerializeToString()), plain_network(smaller.SerializeToString()), feeds
    )
    return smaller, require("simplifying", parity)
