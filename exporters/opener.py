"""The only place that opens an ONNX file; what others get is a loaded model, never a path."""

import os
import stat
from pathlib import Path

import onnx

from profiles.errors import ConfigError, IntegrityError

MAX_MODEL_BYTES = (1 << 31) - 1
"""Protobuf's own limit."""


def open_onnx(path: Path) -> onnx.ModelProto:
    """Load and check an ONNX file that holds all its weights itself.

    Raises IntegrityError for links, files that are not regular and external data, whose
    locations reach outside the folder in several loaders; ConfigError for anything unreadable.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(_read(path))
    except Exception as error:  # protobuf raises a private DecodeError
        raise ConfigError(f"{path}: not an ONNX model ({error})") from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise IntegrityError(f"{path}: {tensor.name} is kept outside the file; embed it")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConfigError(f"{path}: not a valid ONNX model: {error}") from error
    return model


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened ({error.strerror})") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise IntegrityError(f"{path}: not a plain file of its own; copy it first")
        if facts.st_size > MAX_MODEL_BYTES:
            raise ConfigError(f"{path}: {facts.st_size} bytes, more than ONNX allows in one file")
        return file.read()
