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
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import to_onnx
from exporters.parity import feeds_of
from pipeline.data.arrays import FloatArray
from pipeline.measure.feeds import parity_inputs
from pipeline.network.run import outputs_of
from pipeline.store.artifacts import Checkpoint, OnnxModel
from pipeline.store.manifest import write_json
from pipeline.store.reports import ExportReport
from pipeline.store.stage import Stage
from profiles.machine.facts import versions

log = logging.getLogger("slimgate")


class Export(Stage[Checkpoint, OnnxModel]):
    """Export, check and simplify."""

    LIBRARIES: ClassVar[tuple[str, ...]] = (
        "torch",
        "onnx",
        "onnxscript",
        "onnxsim",
        "onnxslim",
        "onnxruntime",
    )

    opset: int = Field(default=20, ge=13)
    dynamic_batch: bool = False

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        inputs = parity_inputs(source.task)
        (out / "feeds.npy").write_bytes(_npy(inputs))
        feeds = feeds_of(inputs, self.dynamic_batch)
        network = source.network()
        with torch.no_grad():
            outputs_of(network, torch.from_numpy(feeds[0]))
        exported = to_onnx(network, feeds, self.opset, self.dynamic_batch)
        for reason in exported.refused:
            log.warning("  %s; exported by %s instead", reason, exported.method)
        simplified = simplify(exported.model, feeds)
        for reason in simplified.refused:
            log.warning("  %s; simplified by %s instead", reason, simplified.method)
        model = simplified.model
        origin = {"source": source.key, **versions(("slimgate", *self.LIBRARIES))}
        onnx.helper.set_model_props(model, origin)
        onnx.save(model, out / "model.onnx")
        cost = count(model)
        report = ExportReport(
            method=exported.method,
            refused=exported.refused,
            opset=self.opset,
            nodes_exported=len(exported.model.graph.node),
            nodes=len(model.graph.node),
            export_error=exported.parity.error,
            simplified_by=simplified.method,
            simplify_error=simplified.parity.error,
            macs=cost.macs,
            parameters=cost.parameters,
            layers=layer_costs(model),
        )
        write_json(out / "export.json", report)
        log.info(
            "  by %s, %d nodes, %.2f MMACs (%.2f MFLOPs), largest relative difference %.1e",
            *(report.method, report.nodes, cost.macs / 1e6, 2 * cost.macs / 1e6),
            max(report.export_error, report.simplify_error),
        )

    def load(self, source: Checkpoint, out: Path, key: str) -> OnnxModel:
        return OnnxModel(key, out, source)


def _npy(array: FloatArray) -> bytes:
    """An .npy file; written through Python, whose error on a full disk says so."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
