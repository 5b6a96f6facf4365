"""fp32 ONNX -> int8 ONNX: static, in Q/DQ form, per channel, the best of a few calibrations."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from exporters.arrays import FloatArray
from exporters.board.library_calls import silenced
from exporters.columns import mean_squared_column_error
from exporters.exporter import Int8Format
from exporters.graph.node_names import WEIGHTED
from exporters.graph.reference import plain_network
from profiles.errors import StageError

log = logging.getLogger("slimgate")

FEWEST = 8
"""The least number of calibration inputs; half of them judge the ranges that the others give."""
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
ENDS_GAIN = 0.9
"""The first and the last layer stay fp32 if that leaves less than this part of the error."""
FUSED = ("Relu", "Clip")
"""Activations that integer kernels of layers with weights compute themselves."""


@dataclass(frozen=True)
class Quantised:
    """The model, how its ranges were chosen, and how far it is from fp32."""

    model: onnx.ModelProto
    method: str
    error: float
    """The squared error over the variance, mean of all output columns, on inputs that gave no
    range."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """One input at a time."""

    def __init__(self, name: str, inputs: FloatArray) -> None:
        self._feeds: Iterator[dict[str, FloatArray]] = (
            {name: inputs[i : i + 1]} for i in range(len(inputs))
        )

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._feeds, None)


def to_int8(model: onnx.ModelProto, calibration: FloatArray, int8_format: Int8Format) -> Quantised:
    """Quantise weights per channel and activations per tensor.

    What follows the last layers with weights stays fp32: there outputs of several kinds may be
    joined, and one range would serve all of them. Ranges come from half of `calibration` [n, ...]
    by minimum and maximum, percentile and entropy; the other half chooses among them, and whether
    the first and the last layer with weights stay at fp32. Raises StageError for too few inputs
    and when nothing works.
    """
    if len(calibration) < FEWEST:
        raise StageError(f"{len(calibration)} calibration inputs, at least {FEWEST} needed")
    fitted, held = calibration[::2], calibration[1::2]
    reference = plain_network(model.SerializeToString())
    wanted = np.concatenate([reference(held[i : i + 1]) for i in range(len(held))])
    named = _with_names(model)
    tail = _after_weights(named.graph)

    def tried(method: str, ends: Sequence[str]) -> Quantised:
        found = _quantised(named, fitted, METHODS[method], [*tail, *ends], int8_format)
        network = plain_network(found.SerializeToString())
        got = np.concatenate([network(held[i : i + 1]) for i in range(len(held))])
        error = mean_squared_column_error(wanted, got)
        name = f"{method}, first and last layer fp32" if ends else method
        log.info("  int8 by %s: relative error %.2g", name, error)
        return Quantised(found, name, error)

    best = min((tried(method, ()) for method in METHODS), key=_error)
    weighted = [node.name for node in named.graph.node if node.op_type in WEIGHTED]
    ends = list(dict.fromkeys([*weighted[:1], *weighted[-1:]]))
    if len(weighted) > len(ends):
        kept = tried(best.method, ends)
        best = kept if _error(kept) < ENDS_GAIN * _error(best) else best
    if not np.isfinite(best.error):
        raise StageError("every int8 calibration gives NaN or infinity; use fp32 or fp16")
    return best


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name, by which nodes are left out of quantising."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {node.name for node in copy.graph.node}
    for place, node in enumerate(copy.graph.node):
        fresh = f"{node.op_type}_{place}"
        while not node.name and fresh in names:
            fresh += "_"
        node.name = node.name or fresh
    return copy


def _after_weights(graph: onnx.GraphProto) -> list[str]:
    """The nodes from which no layer with weights is reached, but for the activation behind one."""
    before: set[str] = set()
    weighted = {o for node in graph.node if node.op_type in WEIGHTED for o in node.output}
    tail = []
    for node in reversed(graph.node):
        fused = node.op_type in FUSED and node.input[0] in weighted
        if node.op_type in WEIGHTED or fused or before.intersection(node.output):
            before.update(node.input)
        else:
            tail.append(node.name)
    return tail


def _error(found: Quantised) -> float:
    return found.error if np.isfinite(found.error) else float("inf")


def _quantised(
    model: onnx.ModelProto,
    inputs: FloatArray,
    method: CalibrationMethod,
    excluded: Sequence[str],
    int8_format: Int8Format,
) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kind = QuantType.QUInt8 if int8_format.unsigned_activations else QuantType.QInt8
    with tempfile.TemporaryDirectory() as folder, silenced():
        path = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                copy,
                path,
                _Reader(model.graph.input[0].name, inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=kind,
                weight_type=QuantType.QInt8,
                calibrate_method=method,
                nodes_to_exclude=list(excluded),
                extra_options={
                    "ActivationSymmetric": not int8_format.unsigned_activations,
                    "WeightSymmetric": True,
                    "QuantizeBias": int8_format.quantised_bias,
                },
            )
            found: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
            return found
        except Exception as error:  # it raises bare errors of every class
            raise StageError(f"quantising to int8 failed: {error}") from error
