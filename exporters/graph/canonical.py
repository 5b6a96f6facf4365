"""One order and one set of names for a graph, whatever order its builder happened to take."""

from collections.abc import Sequence, Set

import onnx


def canonical(raw: bytes) -> bytes:
    """The same serialised model with nodes sorted and values renamed by what they compute.

    Inputs, outputs and weights keep their names. A model with subgraphs, which refer to
    values by name, is left as it is.
    """
    model = onnx.ModelProto.FromString(raw)
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return raw
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    kept = known | {output.name for output in graph.output}
    renamed = {name: name for name in kept}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        if not ready:
            return raw  # not a graph that runs; the runtime's own checks say why
        for node in sorted(ready, key=lambda node: _signature(node, renamed)):
            for place, name in enumerate(node.output):
                renamed.setdefault(name, _free(f"value_{len(ordered)}_{place}", kept))
            known.update(node.output)
            ordered.append(_renamed(node, renamed, len(ordered)))
        waiting = [node for node in waiting if not all(name in known for name in node.output)]
    del graph.node[:]
    graph.node.extend(ordered)
    del graph.value_info[:]
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _free(name: str, kept: Set[str]) -> str:
    """The name, or a longer one: a weight that was folded after an earlier pass may bear it."""
    while name in kept:
        name += "_"
    return name


def _signature(node: onnx.NodeProto, renamed: dict[str, str]) -> tuple[str, Sequence[str], bytes]:
    """What a node computes, in names that do not depend on the builder."""
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    bare.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    inputs = [renamed[name] for name in node.input]
    return node.op_type, inputs, bare.SerializeToString(deterministic=True)


def _renamed(node: onnx.NodeProto, renamed: dict[str, str], place: int) -> onnx.NodeProto:
    fresh = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=f"node_{place}")
    fresh.input.extend(renamed[name] for name in node.input)
    fresh.output.extend(renamed[name] for name in node.output)
    fresh.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return fresh
