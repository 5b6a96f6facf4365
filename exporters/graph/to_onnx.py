"""torch -> ONNX, by whichever of torch's exporters gives the same network."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from torch import nn

from exporters.arrays import FloatArray
from exporters.board.library_calls import silenced
from exporters.graph.node_names import named_by_modules
from exporters.graph.reference import plain_network
from exporters.parity import Network, Parity, compare, require
from profiles.errors import StageError

Method = Literal["dynamo", "torchscript"]
METHODS: tuple[Method, ...] = get_args(Method)
"""torch's exporters, in the order in which they are tried."""

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Exported:
    """A checked ONNX model, how it came to be, and how near it is to the torch network."""

    model: onnx.ModelProto
    method: Method
    parity: Parity
    refused: tuple[str, ...]
    """The reasons why the exporters that were tried before gave nothing."""


def to_onnx(
    network: nn.Module, feeds: Sequence[FloatArray], opset: int, dynamic_batch: bool
) -> Exported:
    """Export `network` in eval mode; torch.export first, TorchScript when that fails or differs.

    `feeds` are the inputs on which torch and ONNX must agree; the first gives the shape.
    Raises StageError with every exporter's reason when none gives the same network.
    """
    refused: list[str] = []
    for method in METHODS:
        try:
            model, parity = export_by(method, network, feeds, opset, dynamic_batch)
        except Exception as error:  # torch's exporters raise errors of many unrelated classes
            refused.append(f"{method}: {_reason(error)}")
            continue
        return Exported(model, method, parity, tuple(refused))
    raise StageError("no exporter gives the same network\n  " + "\n  ".join(refused))


def export_by(
    method: Method,
    network: nn.Module,
    feeds: Sequence[FloatArray],
    opset: int,
    dynamic_batch: bool,
) -> tuple[onnx.ModelProto, Parity]:
    """Export `network` in eval mode by one exporter; raises whatever that raises."""
    network = network.eval()
    exporter = {"dynamo": _dynamo, "torchscript": _torchscript}[method]
    raw = exporter(network, torch.from_numpy(feeds[0]), opset, dynamic_batch)
    model = cleaned(named_by_modules(onnx.ModelProto.FromString(raw)))
    onnx.checker.check_model(model, full_check=True)
    found = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    if found != {opset}:
        raise StageError(f"gave opset {found}, asked for {opset}")
    parity = compare(torch_network(network), plain_network(model.SerializeToString()), feeds)
    return model, require(f"export by {method}", parity)


def torch_network(network: nn.Module) -> Network:
    """`network` as a function of arrays, without gradients, on its own device."""
    device = next(network.parameters()).device

    def run(batch: FloatArray) -> FloatArray:
        with torch.no_grad():
            output = network(torch.from_numpy(batch).to(device))
        return np.asarray(output.cpu().numpy(), np.float32)

    return run


def cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without what differs from run to run: traces, paths, descriptions."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.name = "network"
    _clean(model.graph)
    return model


def _clean(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    values = (*graph.input, *graph.output, *graph.value_info)
    for item in (*graph.node, *values, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):  # a branch of an If, the body of a Loop
                _clean(attribute.g)


def _reason(error: BaseException) -> str:
    """The first line of what an error came of: torch's own first line says only which step."""
    while error.__cause__:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _dynamo(network: nn.Module, example: torch.Tensor, opset: int, dynamic_batch: bool) -> bytes:
    # torch.export takes a dimension of 1 for a constant, so a free batch is shown as 2.
    args = (torch.cat([example, example]) if dynamic_batch else example,)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if dynamic_batch else None
    with silenced():
        program = torch.onnx.export(
            network,
            args,
            dynamo=True,
            opset_version=opset,
            external_data=False,
            dynamic_shapes=shapes,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    if program is None:
        raise StageError("torch.onnx.export gave nothing")
    raw: bytes = program.model_proto.SerializeToString()
    return raw


def _torchscript(
    network: nn.Module, example: torch.Tensor, opset: int, dynamic_batch: bool
) -> bytes:
    # It prints the graph when it fails, and stdout is for results only.
    torch._C._jit_set_onnx_log_output_stream("stderr")
    with silenced(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=False,
            opset_version=opset,
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic_batch else None,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        return path.read_bytes()
