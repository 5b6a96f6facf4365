#!/usr/bin/env bash
# ONNX Runtime's CPU kernels do not round an awkward channel count up: they leave the fast layout.
# onnxruntime 1.31.1, onnx 1.23.2, x86-64.
# Guess: 63 channels cost what 64 do, at worst, and fewer MACs never cost more.
# Seen: a count that 4 does not divide is not run in blocks: 63 is slower than 64, four times if
# depthwise; 60 stays in blocks, padded to 64 in file and time. Groups need more: at 12 channels a
# group instead of 16 a layer has 56 % of the MACs and is no faster.
# Do: prune to multiples of the block (16 with AVX-512, else 8), or of 4 at the least; count the
# channels of one group where there are several.
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
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper


def network(width: int, groups: int) -> bytes:
    """Four convolutions with ReLU on a picture of 28 x 28."""
    random, nodes, weights, x = np.random.default_rng(0), [], [], "x"
    for i in range(4):
        value = random.normal(size=(width, width // groups, 3, 3)).astype("f4") / 20
        weights.append(numpy_helper.from_array(value, f"w{i}"))
        nodes.append(
            helper.make_node("Conv", [x, f"w{i}"], [f"conv{i}"], pads=[1] * 4, group=groups))
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]))
        x = f"relu{i}"
    ends = [helper.make_tensor_value_info(name, 1, [1, width, 28, 28]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


print(f"onnxruntime {ort.__version__}, onnx {onnx.__version__}")
changed = []
for kind, dense, others in (
    # width, groups: in the blocked layout?, bounds of the time beside the dense one
    ("dense", (64, 1), {(60, 1): (True, 0.85, 1.15), (63, 1): (False, 1.08, 9)}),
    ("depthwise", (64, 64), {(60, 60): (True, 0.7, 1.4), (63, 63): (False, 2, 99)}),
    ("in 4 groups", (64, 4), {(48, 4): (False, 0.8, 9)}),
):
    sessions, sizes, blocked = {}, {}, {}
    for shape in (dense, *others):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.optimized_model_filepath = "optimised.onnx"
        sessions[shape] = ort.InferenceSession(network(*shape), options, ["CPUExecutionProvider"])
        sizes[shape] = Path("optimised.onnx").stat().st_size
        domains = {node.domain for node in onnx.load("optimised.onnx").graph.node}
        blocked[shape] = "com.microsoft.nchwc" in domains
    spent = {shape: [] for shape in sessions}
    for _ in range(150):  # in turns, so that a busy machine slows all of them
        for shape, session in sessions.items():
            given = np.full((1, shape[0], 28, 28), 0.5, "f4")
            start = time.process_time()
            session.run(None, {"x": given})
            spent[shape].append(time.process_time() - start)
    for shape, (layout, low, high) in others.items():
        ratio = float(np.median(spent[shape]) / np.median(spent[dense]))
        print(f"{kind}: {shape[0]} channels take {ratio:.2f} of the time of {dense[0]}, "
              f"{sizes[shape] / sizes[dense]:.2f} of the file; blocked: {blocked[shape]}")
        if blocked[shape] != layout or not blocked[dense] or not low < ratio < high:
            changed.append(f"{kind} {shape[0]}, expected blocked {layout}, {low} to {high}")
sys.exit(f"changed: {'; '.join(changed)}" if changed else None)
PYTHON
