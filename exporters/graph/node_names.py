"""Nodes named after the modules of the network, so that profiles and messages speak of those."""

import ast
import re
from collections.abc import Mapping, Set

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes of a node the modules around it, the outermost first, and itself."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh")
SUMS = ("Add", "Sum")
"""With activations, what runtimes compute as part of the convolution before."""

MARKS = re.compile(r"^InsertedPrecisionFreeCast_|_token_[0-9]+$")
OWN_LAYOUT = "_nchwc"
"""What ONNX Runtime puts around the names of nodes that it makes anew."""


def named_by_modules(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of torch's exporter with nodes named `module/operator`, and values by their nodes.

    A layer with a weight is named after the module that holds the weight: a batch norm folded into
    a convolution would else give it its name. Inputs, outputs and weights keep theirs. Of other
    exporters, and with subgraphs, which refer to values by name, all is left as it is.
    """
    graph = model.graph
    nodes = graph.node
    if has_subgraphs(graph) or not any(_scopes(node) for node in nodes):
        return model
    weights = {tensor.name for tensor in graph.initializer}
    taken = weights | {value.name for value in (*graph.input, *graph.output)}
    renamed = {name: name for name in (*taken, "")}
    for node in nodes:
        node.name = free_name(f"{_module(node, weights)}/{node.op_type}".lstrip("/"), taken)
        taken.add(node.name)
        for place, name in enumerate(node.output):
            own = free_name(f"{node.name}_{place}", taken) if place else node.name
            taken.add(renamed.setdefault(name, own))
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [renamed.get(name, name) for name in values]
    return model


def kernel_names(kernels: onnx.ModelProto, model: onnx.ModelProto) -> Mapping[str, str]:
    """The nodes of `model` that the nodes of `kernels` stand for, which ONNX Runtime made of it.

    It names most after a node, and convolutions in its own layout after the value they give.
    """
    nodes = {node.name for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for name in (node.name for node in kernels.graph.node):
        bare = MARKS.sub("", name)
        value = bare.removesuffix(OWN_LAYOUT)
        if name in nodes or bare in nodes:
            found[name] = name if name in nodes else bare
        elif value != bare and value in producers:
            found[name] = _layer_of(producers[value], producers).name
    return found


def has_subgraphs(graph: onnx.GraphProto) -> bool:
    """Whether a node has a branch or a loop's body."""
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def free_name(name: str, taken: Set[str]) -> str:
    """The name, with a number where another has it."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _module(node: onnx.NodeProto, weights: Set[str]) -> str:
    """The dotted name of the module, empty for the network itself."""
    weight: str = node.input[1] if node.op_type in WEIGHTED else ""
    if weight in weights and "." in weight:
        return weight.rpartition(".")[0]
    scopes = _scopes(node)
    return scopes[-2] if len(scopes) > 1 else ""


def _scopes(node: onnx.NodeProto) -> list[str]:
    for noted in node.metadata_props:
        if noted.key == SCOPES:
            return [str(scope) for scope in ast.literal_eval(noted.value)]
    return []


def _layer_of(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The layer with a weight that a kernel computes together with `node`, where it is the only
    one that can be; else the node."""
    last = node
    if last.op_type in ACTIVATIONS and last.input[0] in producers:
        last = producers[last.input[0]]
    if last.op_type in SUMS:
        added = [producers[name] for name in last.input if name in producers]
        layers = [one for one in added if one.op_type in WEIGHTED]
        return layers[0] if len(layers) == 1 else node
    return last if last.op_type in WEIGHTED else node
