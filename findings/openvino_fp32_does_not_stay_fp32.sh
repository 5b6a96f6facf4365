#!/usr/bin/env bash
# OpenVINO changes the precision of an fp32 model twice without a word: saving and compiling it.
# openvino 2026.4.1, onnx 1.23.2.
# Guess: types are what the file says, and a lower precision is something that one asks for.
# Seen: save_model writes fp16 weights, and no hint brings the rest back at load; compile_model
# computes in bf16 on a processor that has it (AVX-512 BF16, AMX): answers depend on the machine.
# On a processor without bf16 the second half is not checked, and the script says so.
# Do: save_model(..., compress_to_fp16=False), and INFERENCE_PRECISION_HINT="f32" for compiling.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps openvino==2026.4.1 \
    onnx==1.23.2 numpy==2.4.6 protobuf==7.36.2 ml-dtypes==0.6.0 typing-extensions==4.12.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import helper, numpy_helper

random = np.random.default_rng(0)
weights = random.normal(size=(64, 64, 3, 3)).astype("f4") / 24
given = random.normal(size=(1, 64, 28, 28)).astype("f4")
ends = [helper.make_tensor_value_info(name, 1, given.shape) for name in "xy"]
node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
graph = helper.make_graph(
    [node], "network", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

core = openvino.Core()
network = core.read_model(model.SerializeToString())
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


def answer(network: openvino.Model, options: dict[str, str]) -> tuple[np.ndarray, str]:
    """The output, and the precision that it was computed in."""
    compiled = core.compile_model(network, "CPU", options)
    return compiled(given)[0], compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()


reference, _ = answer(network, FP32)


def error(output: np.ndarray) -> float:
    return float(np.abs(output - reference).max() / np.abs(reference).max())


print(f"openvino {openvino.__version__}, onnx {onnx.__version__}")
changed = []
for options, size, low, high in (({}, 0.5, 1e-5, 1e-2), ({"compress_to_fp16": False}, 1, 0, 1e-6)):
    openvino.save_model(network, "saved.xml", **options)
    share = Path("saved.bin").stat().st_size / weights.nbytes
    found = error(answer(core.read_model("saved.xml"), FP32)[0])
    print(f"save_model({options}): {share:.2f} of the weights' bytes, off {found:.1e}")
    if share != size or not low <= found <= high:
        changed.append(f"save_model({options})")
for options in ({}, FP32):
    output, precision = answer(network, options)
    print(f"compile_model({options}): computed in {precision}, off {error(output):.1e}")
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        print("this processor has no bf16: what compile_model does on one that has was not seen")
    elif precision != ("f32" if options else "bf16") or (error(output) > 1e-3) == bool(options):
        changed.append(f"compile_model({options})")
sys.exit(f"changed: {'; '.join(changed)}" if changed else None)
PYTHON
