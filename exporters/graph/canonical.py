"""One order and one set of names for a graph, whatever order its builder happened to take."""

from collections.abc import Mapping, Sequence

import onnx

from exporters.graph.node_names import free_name, has_subgraphs

NO_NAMES: Mapping[str, str] = {}


def canonical(raw: bytes, names: Mapping[str, str] = NO_NAMES) -> bytes:
    """The same serialised model with nodes sorted by what they compute, and values named after
    them.

    Inputs, outputs and weights keep their names. Nodes get those of `names`, by what they are
    called now; others are numbered. A model with subgraphs, which refer to values by name, is left
    as it is.
    """
    model = onnx.ModelProto.FromString(raw)
    graph = model.graph
    if has_subgraphs(graph):
        return raw
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    kept = known | {output.name for output in graph.output}
    renamed = {name: name for name in kept}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    taken = set(kept)
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        if not ready:
            return raw  # not a graph that runs; the runtime's own checks say why
        for node in sorted(ready, key=lambda node: _sorted_by(node, renamed, names)):
            name = free_name(names.get(node.name, f"{node.op_type}_{len(ordered)}"), taken)
            taken.add(name)
            for place, value in enumerate(node.output):
                own = free_name(f"{name}_{place}", taken) if place else name
                taken.add(renamed.setdefault(value, own))
            known.update(node.output)
            ordered.append(_renamed(node, renamed, name))
        waiting = [node for node in waiting if not all(name in known for name in node.output)]
    del graph.node[:]
    graph.node.extend(ordered)
    del graph.value_info[:]
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _sorted_by(
    node: onnx.NodeProto, renamed: dict[str, str], names: Mapping[str, str]
) -> tuple[str, Sequence[str], bytes, str]:
    """What a node computes, in names that do not depend on the builder."""
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    bare.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    inputs = [renamed[name] for name in node.input]
    content = bare.SerializeToString(deterministic=True)
    return node.op_type, inputs, content, names.get(node.name, "")


def _renamed(node: onnx.NodeProto, renamed: dict[str, str], name: str) -> onnx.NodeProto:
    fresh = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=name)
    fresh.input.extend(renamed[name] for name in node.input)
    fresh.output.extend(renamed[name] for name in node.output)
    fresh.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return fresh
