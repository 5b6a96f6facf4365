#!/usr/bin/env bash
# ONNX Runtime's CPU kernels run a convolution and its ReLU, between one pair of Q/DQ, in integers
# only where the activation's zero point is the lowest value of its type.
# onnxruntime 1.31.1, onnx 1.23.2, x86-64.
# Guess: symmetric activations, zero point 0 of int8, are the simplest case and thus the fastest.
# Seen: 0 of 2 convolutions then run in integers, and the int8 model is slower than fp32; zero point
# -128 gives 2 of 2. Signs do not matter: uint8 fails with its middle, 128, and succeeds with 0.
# Do: give ONNX Runtime zero points at the lowest value and TensorRT, which takes symmetric ones
# only, a model of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps onnxruntime==1.31.1 \
    onnx==1.23.2 numpy==2.4.6 protobuf==7.36.2 ml-dtypes==0.6.0 typing-extensions==4.12.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

WIDTH, SIZE = 64, 28
SHAPE = [1, WIDTH, SIZE, SIZE]


def network(kind: str | None, zero: int) -> bytes:
    """Two convolutions with ReLU: of floats, or with Q/DQ before each and after the last."""
    random, nodes, weights, x = np.random.default_rng(0), [], [], "x"

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def rounded(x: str, kind: str, zero: int, scale: float) -> str:
        scales = constant(f"{x}_scale", np.array(scale, "f4"))
        zeros = constant(f"{x}_zero", np.array(zero, kind))
        nodes.append(helper.make_node("QuantizeLinear", [x, scales, zeros], [f"{x}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", scales, zeros], [f"{x}_d"]))
        return f"{x}_d"

    lowest = kind is not None and zero == np.iinfo(kind).min
    x = rounded(x, "i1", 0, 8 / 255) if kind else x
    for i in range(2):
        whole = random.integers(-127, 128, (WIDTH, WIDTH, 3, 3)).astype("i1")
        w = constant(f"w{i}", whole if kind else whole.astype("f4") / 1778)
        if kind:
            scale = constant(f"w{i}_scale", np.array(1 / 1778, "f4"))
            nodes.append(helper.make_node("DequantizeLinear", [w, scale], [f"{w}_d"]))
            w = f"{w}_d"
        nodes.append(helper.make_node("Conv", [x, w], [f"conv{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]))
        x = rounded(f"relu{i}", kind, zero, 4 / (255 if lowest else 127)) if kind else f"relu{i}"
    ends = [helper.make_tensor_value_info(name, 1, SHAPE) for name in ("x", x)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


print(f"onnxruntime {ort.__version__}, onnx {onnx.__version__}")
times, integers = {}, {}
for kind, zero in ((None, 0), ("i1", 0), ("u1", 128), ("i1", -128), ("u1", 0)):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = "optimised.onnx"
    session = ort.InferenceSession(network(kind, zero), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load("optimised.onnx").graph.node]
    integers[kind, zero], spent = kinds.count("QLinearConv"), []
    for _ in range(60):
        start = time.process_time()
        session.run(None, {"x": np.ones(SHAPE, "f4")})
        spent.append(time.process_time() - start)
    name = f"{np.dtype(kind)}, zero point {zero}" if kind else "float32"
    print(f"{name}: {integers[kind, zero]} of 2 in integers, {np.median(spent) * 1e3:.2f} ms")
wanted = {(None, 0): 0, ("i1", 0): 0, ("u1", 128): 0, ("i1", -128): 2, ("u1", 0): 2}
sys.exit(None if integers == wanted else f"changed: convolutions in integers, expected {wanted}")
PYTHON
