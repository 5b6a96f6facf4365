"""The ONNX model at the precision an engine is to have: written into the file, nothing implied."""

import onnx

from exporters.exporter import Int8Format, Source
from exporters.graph.fp16 import to_fp16
from exporters.graph.int8 import to_int8
from exporters.graph.open import open_onnx
from exporters.parity import feeds_of
from profiles.device import Precision


def at_precision(
    source: Source, precision: Precision, int8_format: Int8Format
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model of `source` at `precision`, and how its int8 ranges were chosen."""
    model = open_onnx(source.model)
    if precision == "fp16":
        return to_fp16(model, feeds_of(source.calibration, False)), ()
    if precision == "int8":
        found = to_int8(model, source.calibration, int8_format)
        return found.model, (f"int8 ranges by {found.method}, relative error {found.error:.2g}",)
    return model, ()
