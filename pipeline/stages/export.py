"""torch -> ONNX -> leaner ONNX, each step held to the one before on the same inputs."""

import io
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field

from exporters.graph.macs import count, layer_costs
from exporters.graph.simplify import Simplified, simplify
from exporters.graph.to_onnx import Exported, to_onnx
from exporters.parity import feeds_of
from pipeline.data.arrays import FloatArray
from pipeline.measure.feeds import parity_inputs
from pipeline.network.run import outputs_of
from pipeline.store.artifacts import Checkpoint, OnnxModel
from pipeline.store.files import write_json
from pipeline.store.reports import ExportReport
from pipeline.store.stage import Stage
from profiles.machine.facts import versions

log = logging.getLogger("slimgate")


class Export(Stage[Checkpoint, OnnxModel]):
    """Export, check and simplify."""

    VERSION: ClassVar[int] = 2
    LIBRARIES: ClassVar[tuple[str, ...]] = (
        "torch",
        "onnx",
        "onnxscript",
        "onnxsim",
        "onnxslim",
        "onnxruntime",
    )

    opset: int = Field(default=20, ge=13)
    """The version of ONNX's operators."""
    dynamic_batch: bool = False
    """Whether the model takes batches of any size, and not of 1 alone."""

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        inputs = parity_inputs(source.task)
        feeds = feeds_of(inputs, self.dynamic_batch)
        network = source.network()
        with torch.no_grad():
            outputs_of(network, torch.from_numpy(feeds[0]))
        exported = to_onnx(network, feeds, self.opset, self.dynamic_batch)
        _log_refused(exported.refused, f"exported by {exported.method}")
        simplified = simplify(exported.model, feeds)
        _log_refused(simplified.refused, f"simplified by {simplified.method}")
        origin = {"source": source.key, **versions(("slimgate", *self.LIBRARIES))}
        onnx.helper.set_model_props(simplified.model, origin)
        report = _report(exported, simplified, self.opset)
        (out / "feeds.npy").write_bytes(_npy(inputs))
        onnx.save(simplified.model, out / "model.onnx")
        write_json(out / "export.json", report)
        _log(report)

    def load(self, source: Checkpoint, out: Path, key: str) -> OnnxModel:
        return OnnxModel(key, out, source)


def _report(exported: Exported, simplified: Simplified, opset: int) -> ExportReport:
    cost = count(simplified.model)
    return ExportReport(
        method=exported.method,
        refused=exported.refused,
        opset=opset,
        nodes_exported=len(exported.model.graph.node),
        nodes=len(simplified.model.graph.node),
        export_error=exported.parity.error,
        simplified_by=simplified.method,
        simplify_error=simplified.parity.error,
        macs=cost.macs,
        parameters=cost.parameters,
        layers=layer_costs(simplified.model),
    )


def _log_refused(reasons: tuple[str, ...], instead: str) -> None:
    for reason in reasons:
        log.warning("  %s; %s instead", reason, instead)


def _log(report: ExportReport) -> None:
    log.info(
        "  by %s, %d nodes, %.2f MMACs (%.2f MFLOPs), largest relative difference %.1e",
        *(report.method, report.nodes, report.macs / 1e6, 2 * report.macs / 1e6),
        max(report.export_error, report.simplify_error),
    )


def _npy(array: FloatArray) -> bytes:
    """An .npy file; written through Python, whose error on a full disk says so."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
