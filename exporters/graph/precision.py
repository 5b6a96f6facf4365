"""The ONNX model at the precision an engine is to have: written into the file, nothing implied."""

from exporters.exporter import Int8Format, PreparedModel, Source
from exporters.graph.fp16 import to_fp16
from exporters.graph.int8 import to_int8
from exporters.graph.open import open_onnx
from exporters.parity import feeds_of
from profiles.device import Precision


def at_precision(source: Source, precision: Precision, int8_format: Int8Format) -> PreparedModel:
    """The model of `source` at `precision`, with how its int8 ranges were chosen as a remark."""
    model, remarks = open_onnx(source.model), tuple[str, ...]()
    if precision == "fp16":
        model = to_fp16(model, feeds_of(source.calibration, False))
    if precision == "int8":
        found = to_int8(model, source.calibration, int8_format)
        model = found.model
        remarks = (f"int8 ranges by {found.method}, relative error {found.error:.2g}",)
    return PreparedModel(model.SerializeToString(deterministic=True), remarks)
