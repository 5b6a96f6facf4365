"""torch -> ONNX -> leaner ONNX, each step held to the one before on the same inputs."""

import io
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field

from exporters.macs import count, layer_costs
from exporters.parity import feeds_of
from exporters.simplify import simplify
from exporters.to_onnx import to_onnx
from pipeline.artifact import Checkpoint, ExportReport, OnnxModel
from pipeline.data import FloatArray, balanced_indices, batches
from pipeline.evaluate import outputs_of
from pipeline.stage import Stage
from pipeline.store import write_json
from pipeline.task import Task
from profiles.machine import versions

log = logging.getLogger("slimgate")

REAL_INPUTS = 32
RANDOM_INPUTS = 32
EDGE_INPUTS = 8


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


def images_and_others(inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The real ones of `parity_inputs`, and the random and edge ones."""
    real = len(inputs) - RANDOM_INPUTS - EDGE_INPUTS
    return inputs[:real], inputs[real:]


def parity_inputs(task: Task) -> FloatArray:
    """Real, random and edge inputs [n, ...] on which every later form must agree."""
    real, _ = next(batches(task.train, balanced_indices(task.train, REAL_INPUTS, 0), REAL_INPUTS))
    generator = np.random.default_rng(0)
    shape = real.shape[1:]
    random = generator.standard_normal((RANDOM_INPUTS, *shape), np.float32)
    return np.concatenate([real, random, _edges(shape, real.min(), real.max())])


def _edges(shape: tuple[int, ...], least: float, most: float) -> FloatArray:
    """[EDGE_INPUTS, *shape]: constants, single values, one channel, a ramp, a chequered field."""
    middle, corner, channel = (np.zeros(shape) for _ in range(3))
    middle.flat[middle.size // 2] = most
    corner.flat[-1] = least
    channel[0] = most
    ramp = np.linspace(least, most, middle.size).reshape(shape)
    chequers = np.where(np.indices(shape).sum(0) % 2, least, most)
    constants = [np.zeros(shape), np.full(shape, least), np.full(shape, most)]
    return np.stack([*constants, middle, corner, channel, ramp, chequers]).astype(np.float32)
