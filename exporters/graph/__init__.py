"""ONNX graphs: export, simplify, count, lower in precision, open."""
