"""What is installed and really runs: every library imported, every runtime given a network."""

import importlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporters.exporter import Source, call_one, runtime, runtime_names
from pipeline.commands.quietly import quietly
from pipeline.data.progress import progress
from profiles.device import DEFAULT_ENGINE, EngineOptions
from profiles.machine.facts import cpu_name, versions

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("slimgate")

LIBRARIES = (
    ("torch", "torch", "torch", True),
    ("torchvision", "torchvision", "torch", True),
    ("onnx", "onnx", "torch", True),
    ("onnxscript", "onnxscript", "torch", True),
    ("onnxsim", "onnxsim", "torch", True),
    ("onnxruntime", "onnxruntime", "ort", True),
    ("timm", "timm", "timm", False),
    ("mlxtend", "mlxtend", "demo", False),
    ("onnxslim", "onnxslim", "torch", False),
)
"""Distribution, module, the extra that installs it, and whether `slimgate run` needs it."""
CAPABILITY = "8.6"
"""The compute capability that engines are built for where they can be built without a GPU."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `found` is its version, or why it does not work and what to do."""

    name: str
    ok: bool
    needed: bool
    found: str


def examine() -> list[Finding]:
    """Look at the processor, the libraries and the runtimes of this machine."""
    checks = [partial(library_finding, *row) for row in LIBRARIES]
    checks += [partial(runtime_finding, name) for name in runtime_names()]
    found = [finding_of(check) for check in progress("checks", checks, len(checks))]
    return [Finding("processor", True, True, cpu_name()), *found]


def finding_of(check: Callable[[], Finding]) -> Finding:
    """What a check finds; what libraries print at it is a message if it fails, and else hidden."""
    finding, printed = quietly(check)
    if printed.strip() and not finding.ok:
        log.warning("%s printed:\n  %s", finding.name, "\n  ".join(printed.strip().splitlines()))
    return finding


def findings_text(findings: Sequence[Finding]) -> str:
    """A line for each finding."""
    lines = []
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
        lines.append(f"{mark:8}{finding.name:18}{finding.found}")
    return "\n".join(lines)


def findings_json(findings: Sequence[Finding]) -> str:
    """One versioned object."""
    rows = [{"name": f.name, "ok": f.ok, "needed": f.needed, "found": f.found} for f in findings]
    return json.dumps({"schema_version": 1, "findings": rows}, indent=1)


def library_finding(name: str, module: str, extra: str, needed: bool) -> Finding:
    """Import a library of `LIBRARIES`."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            return Finding(name, False, needed, f"does not import: {error}")
        return Finding(name, False, needed, f"pip install 'slimgate[{extra}]'")
    except Exception as error:  # a broken installation may raise anything
        return Finding(name, False, needed, f"does not import: {error}")
    return Finding(name, True, needed, versions((name,)).get(name, "unknown version"))


def runtime_finding(name: str) -> Finding:
    """Build and run x + 1 on the runtime, and look at the answer."""
    try:
        from onnx import TensorProto, helper, save

        shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
        one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
        node = helper.make_node("Add", ["x", "one"], ["y"])
        graph = helper.make_graph([node], "plus_one", [shape], [result], [one])
        opset = [helper.make_opsetid("", 20)]
        exporter = runtime(name, EngineOptions(compute_capability=CAPABILITY))
        zeros = np.zeros((1, 4), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            model, engine = Path(folder) / "model.onnx", Path(folder) / f"engine{exporter.suffix}"
            save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(model))
            exporter.build(Source(model, zeros, _plus_one), engine)
            if reason := exporter.unavailable_reason():
                return Finding(f"engine {name}", True, False, f"builds; {reason}")
            answer = call_one(exporter.open(engine), zeros)
    except Exception as error:  # whatever is wrong is what doctor is there to tell
        return Finding(f"engine {name}", False, name == DEFAULT_ENGINE, str(error))
    ok = bool(np.array_equal(answer, np.ones((1, 4))))
    found = "runs" if ok else "gives a wrong answer"
    on = ", ".join(f"{part} {version}" for part, version in exporter.environment().items())
    return Finding(f"engine {name}", ok, name == DEFAULT_ENGINE, f"{found}; {on}")


def _plus_one() -> "nn.Module":
    """The same network for runtimes that convert from torch."""
    from torch import Tensor, nn

    class PlusOne(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    return PlusOne().eval()
