"""The only place that opens an ONNX file; what others get is a loaded model, never a path."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from profiles.errors import ConfigError, IntegrityError

MAX_MODEL_BYTES = (1 << 31) - 1
"""The largest file that protobuf reads."""
MAX_NODES = 100_000
"""The most nodes of a model, with functions put in the place of their calls, as the checker does.
Each may call another twice: forty functions are 2 ** 40 nodes.
"""


def open_onnx(path: Path) -> onnx.ModelProto:
    """Load and check an ONNX file that holds all its weights itself.

    Raises IntegrityError for links, files that are not regular and external data, whose
    locations reach outside the folder in several loaders; ConfigError for anything unreadable.
    """
    return checked_onnx(_read(path), path)


def checked_onnx(raw: bytes, path: Path) -> onnx.ModelProto:
    """The model in the content of a file that holds all its weights itself; raises the same."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except Exception as error:  # protobuf raises a private DecodeError
        raise ConfigError(f"{path}: not an ONNX model ({error})") from error
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise IntegrityError(f"{path}: {tensor.name} is kept outside the file; embed it")
    try:
        if _nodes(model) > MAX_NODES:
            raise ConfigError(f"{path}: more than {MAX_NODES} nodes, those of its calls included")
        onnx.checker.check_model(model, full_check=True)
    except ConfigError:
        raise
    except Exception as error:  # its own errors share no class, and a broken name is a third
        raise ConfigError(f"{path}: not a valid ONNX model: {error}") from error
    return model


def _tensors(message: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, also those in attributes, subgraphs and functions."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                if isinstance(item, onnx.TensorProto):
                    yield item
                else:
                    yield from _tensors(item)


def _nodes(model: onnx.ModelProto) -> int:
    """Nodes, also in branches and loops, with those of a function counted at every call."""
    bodies = {(f.domain, f.name, f.overload): f.node for f in model.functions}
    known: dict[tuple[str, str, str], int] = {}

    def within(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(map(by, nodes))

    def by(node: onnx.NodeProto) -> int:
        inner = sum(within(graph.node) for a in node.attribute for graph in (a.g, *a.graphs))
        called = (node.domain, node.op_type, node.overload)
        if called in bodies and called not in known:
            known[called] = 0  # a function that calls itself, which the checker refuses
            known[called] = within(bodies[called])
        return 1 + inner + known.get(called, 0)

    return within(model.graph.node)


def _read(path: Path) -> bytes:
    # Neither follow a link nor wait for the other end of a pipe.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError(f"{path}: a link; copy the file it points to") from error
        raise ConfigError(f"{path}: cannot be opened ({error.strerror})") from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise IntegrityError(f"{path}: not a plain file of its own; copy it first")
        if facts.st_size > MAX_MODEL_BYTES:
            raise ConfigError(f"{path}: {facts.st_size} bytes, more than ONNX allows in one file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)
