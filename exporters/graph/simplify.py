"""ONNX -> leaner ONNX, checked before and after, and proven to be the same network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx

from exporters.arrays import FloatArray
from exporters.graph.node_names import has_subgraphs
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import cleaned
from exporters.parity import Network, Parity, compare, require
from profiles.errors import TAKES_TOO_MUCH, StageError, lacks_memory

LARGEST = 1 << 30
"""The most bytes of a model that is given to simplifiers: near the 2 GiB that protobuf holds,
onnxsim ends the process.
"""


@dataclass(frozen=True)
class Simplified:
    """The leanest of the models, which simplifier gave it, and how near it is to the one before."""

    model: onnx.ModelProto
    method: str
    """The simplifier's name, `none` where no simplifier made it smaller."""
    parity: Parity
    refused: tuple[str, ...]
    """The reasons why the other simplifiers' results were not taken."""


def simplify(model: onnx.ModelProto, feeds: list[FloatArray]) -> Simplified:
    """Fold constants and fuse with onnxsim and with onnxslim; the leaner result is kept.

    A result counts if it is valid, the same network on `feeds`, and larger than `model` neither
    in nodes nor in bytes. Simplifiers get a loaded model, never a path: given a path onnxsim
    follows external data anywhere. Raises StageError when `model` itself is not valid.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # its own errors share no class
        raise StageError(f"simplifying failed: {error}") from error
    reference = plain_network(model.SerializeToString())
    best = Simplified(model, "none", compare(reference, reference, feeds), ())
    if model.ByteSize() > LARGEST:
        return replace(best, refused=(f"simplifiers crash above {LARGEST >> 20} MiB",))
    refused: list[str] = []
    short_of_memory = False
    for method, simplifier in SIMPLIFIERS.items():
        try:
            found = _leaner(simplifier, model, best.model, reference, feeds)
        except Exception as error:  # onnxsim raises bare RuntimeErrors and its own C++ errors
            refused.append(f"{method}: {str(error).strip() or type(error).__name__}")
            short_of_memory |= lacks_memory(error)
            continue
        if found:
            best = Simplified(found[0], method, found[1], ())
    if best.method == "none" and len(refused) == len(SIMPLIFIERS):
        short = f"simplifying {TAKES_TOO_MUCH}"
        said = short if short_of_memory else "no simplifier gives the same network"
        raise StageError("\n  ".join((said, *refused)))
    return Simplified(best.model, best.method, best.parity, tuple(refused))


def _leaner(
    simplifier: Callable[[onnx.ModelProto], onnx.ModelProto],
    model: onnx.ModelProto,
    best: onnx.ModelProto,
    reference: Network,
    feeds: list[FloatArray],
) -> tuple[onnx.ModelProto, Parity] | None:
    """What a simplifier makes of the model, and how near; None where `best` is as lean.

    The copies and sessions that this takes, each as large as the model, end with it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lean = without_duplicates(cleaned(simplifier(copy)))
    del copy
    onnx.checker.check_model(lean, full_check=True)
    if lean.ir_version != model.ir_version or list(lean.opset_import) != list(model.opset_import):
        raise StageError("changed the version of the operators")
    if _size(lean) >= _size(best) or lean.ByteSize() > model.ByteSize():
        return None
    candidate = plain_network(lean.SerializeToString())
    return lean, require("simplifying", compare(reference, candidate, feeds))


def without_duplicates(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each weight once, and none that nothing reads.

    Of a graph with subgraphs, which see the weights of the graph around them, all are kept.
    """
    graph = model.graph
    if has_subgraphs(graph):
        return model
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.name = ""
        same[tensor.name] = first.setdefault(
            bare.SerializeToString(deterministic=True), tensor.name
        )
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _size(model: onnx.ModelProto) -> tuple[int, int]:
    return len(model.graph.node), model.ByteSize()


# Both take seconds to import, and are not needed where the result is in the store.
def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    lean: onnx.ModelProto
    lean, _ = onnxsim.simplify(model)
    return lean


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    lean: onnx.ModelProto | None = onnxslim.slim(model)
    if lean is None:
        raise StageError("gave nothing")
    return lean


SIMPLIFIERS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
}
