#!/usr/bin/env bash
# TensorRT-RTX stores far more for int8 depthwise convolutions than for the same ones in fp32.
# tensorrt-rtx 1.7.1.116 (a 95 MB wheel under NVIDIA's licence), onnx 1.23.2. No GPU is needed.
# Guess: int8 weights are a quarter of fp32's, and do not depend on the size of the picture.
# Seen: two layers of 256 channels have 18.7 kB of weights in fp32 and 2.4 MB in int8 at 56 x 56,
# 0.17 MB at 14 x 14. Convolutions that are not depthwise do shrink to a quarter.
# Do: leave depthwise layers out of int8; compare sizes of engines, not of ONNX files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps \
    tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 \
    nvidia-cuda-runtime==13.0.96 \
    onnx==1.23.2 numpy==2.4.6 protobuf==7.36.2 ml-dtypes==0.6.0 typing-extensions==4.12.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import ctypes
import re
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

for pattern in ("libcudart.so.*", "libtensorrt_rtx.so.1*", "libtensorrt_onnxparser_rtx.so.1*"):
    found = sorted(Path(sysconfig.get_path("purelib")).rglob(pattern))
    ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt  # noqa: E402


class Log(trt.ILogger):
    """Keeps what TensorRT says of the memory that weights take."""

    weights = 0

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if told := re.search(r"Total Weights Memory: (\d+)", message):
            self.weights = int(told[1])


LOG = Log()


def network(width: int, groups: int, side: int, int8: bool) -> bytes:
    """Two convolutions with ReLU: of floats, or with Q/DQ before each and after the last."""
    nodes, values, x = [], [], "x"

    def scaled(kind: str, x: str, to: str, scale: float, **more: int) -> str:
        values.append(numpy_helper.from_array(np.array(scale, "f4"), f"{to}_scale"))
        nodes.append(helper.make_node(kind, [x, f"{to}_scale"], [to], **more))
        return to

    def rounded(x: str) -> str:
        whole = scaled("QuantizeLinear", x, f"{x}_q", 0.05, output_dtype=TensorProto.INT8)
        return scaled("DequantizeLinear", whole, f"{x}_d", 0.05)

    x = rounded(x) if int8 else x
    for i in range(2):
        whole = np.random.default_rng(i).integers(-127, 128, (width, width // groups, 3, 3))
        value = whole.astype("i1") if int8 else whole.astype("f4") / 400
        values.append(numpy_helper.from_array(value, f"w{i}"))
        w = scaled("DequantizeLinear", f"w{i}", f"w{i}_d", 1 / 400) if int8 else f"w{i}"
        nodes.append(helper.make_node("Conv", [x, w], [f"conv{i}"], pads=[1] * 4, group=groups))
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]))
        x = rounded(f"relu{i}") if int8 else f"relu{i}"
    ends = [helper.make_tensor_value_info(name, 1, [1, width, side, side]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], values)
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def built(model: bytes) -> tuple[int, int]:
    """Bytes of the weights' memory and of the engine, for compute capability 8.6."""
    builder = trt.Builder(LOG)
    typed = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    parsed = trt.OnnxParser(typed, LOG).parse(model)
    plan = builder.build_serialized_network(typed, config) if parsed else None
    return (LOG.weights, len(bytes(plan))) if plan else sys.exit("changed: it does not build")


print(f"tensorrt-rtx {trt.__version__}, onnx {onnx.__version__}")
ratios = []
for width, groups, side in ((256, 256, 14), (256, 256, 28), (256, 256, 56), (64, 1, 56)):
    (fp32, whole), (int8, small) = (built(network(width, groups, side, q)) for q in (False, True))
    ratios.append(int8 / fp32)
    print(f"{width} channels in groups of {width // groups}, {side} x {side}: weights {fp32} bytes "
          f"in fp32, {int8} in int8; engine {whole}, {small}")
if not (2 < ratios[0] < ratios[1] < ratios[2] and ratios[2] > 50 and ratios[3] < 0.5):
    sys.exit(f"changed: expected growth with the picture, and a quarter when dense: {ratios}")
PYTHON
