"""Weights kept outside of the file: every way out of its folder, at every place of a model."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from hostile_file import Hostile, fresh
from onnx import helper, numpy_helper
from onnx_graphs import linear, model, ones

External = dict[str, str]
Nodes = list[onnx.NodeProto]
FLOAT = onnx.TensorProto.FLOAT
DOMAIN = "evil"
BYTES = 140


def routes(folder: Path, canary: Path) -> dict[str, External]:
    """Ways out of `folder` to `canary`; the links that they need are made."""
    (folder / "soft").symlink_to(canary)
    up = os.path.relpath(canary, folder)
    (folder / "relative").symlink_to(up)
    (folder / "chain").symlink_to(folder / "soft")
    (folder / "parent").symlink_to(canary.parent)
    (folder / "hard").hardlink_to(canary)
    return {
        "above": {"location": up},
        "above-from-below": {"location": f"nothing/../{up}"},
        "dotted": {"location": f"./././{up}"},
        "backslashes": {"location": up.replace("/", "\\")},
        "absolute": {"location": str(canary)},
        "address": {"location": f"file://{canary}"},
        "root": {"location": f"/proc/self/root{canary}"},
        "symlink": {"location": "soft"},
        "relative-symlink": {"location": "relative"},
        "symlink-to-symlink": {"location": "chain"},
        "symlinked-folder": {"location": f"parent/{canary.name}"},
        "hard-link": {"location": "hard"},
        "zero-byte": {"location": f"soft\0{canary}"},
        "unknown-key": {"location": up, "basepath": str(canary.parent)},
        "tebibyte": {"location": up, "length": str(1 << 40)},
        "negative": {"location": up, "offset": "-8", "length": "-1"},
        "no-location": {},
        "device": {"location": "/dev/zero"},
        "memory": {"location": "*/_ORT_MEM_ADDR_/*"},
    }


def kept_outside(entries: External) -> onnx.TensorProto:
    """A weight "w" [5, 7] that is in another file."""
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[5, 7])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"offset": "0", "length": str(BYTES)} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def times_w(before: Nodes, w: str = "w") -> onnx.ModelProto:
    return model([*before, helper.make_node("MatMul", ["x", w], ["y"])], [1, 5], [1, 7])


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], value=tensor)


def branch_of(nodes: Nodes) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("w", FLOAT, [5, 7])
    return helper.make_graph(nodes, "branch", [], [out])


def _if(name: str, branch: onnx.GraphProto) -> Nodes:
    yes = numpy_helper.from_array(np.array(True))
    return [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], [name], then_branch=branch, else_branch=branch),
    ]


def _initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = times_w([])
    graph.graph.initializer.append(tensor)
    return graph


def _attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return times_w([constant(tensor)])


def _attribute_list(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["z"])
    node.attribute.append(helper.make_attribute("hidden", [tensor, tensor]))
    return times_w([node, constant(numpy_helper.from_array(ones(5, 7)))])


def _in_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return times_w(_if("chosen", branch_of([constant(tensor)])), "chosen")


def _branch_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    branch = branch_of([])
    branch.initializer.append(tensor)
    return times_w(_if("chosen", branch), "chosen")


def _in_branch_of_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = _if("w", branch_of([constant(tensor)]))
    return times_w(_if("chosen", branch_of(nodes)), "chosen")


def _graph_list(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["z"])
    node.attribute.append(helper.make_attribute("hidden", [branch_of([constant(tensor)])]))
    return times_w([node, constant(numpy_helper.from_array(ones(5, 7)))])


def _in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    body = [constant(tensor), helper.make_node("MatMul", ["x", "w"], ["y"])]
    return calling([function("f0", body)])


def _sparse(tensor: onnx.TensorProto, of: str) -> onnx.SparseTensorProto:
    inside = numpy_helper.from_array(np.arange(35), "indices")
    found = onnx.SparseTensorProto(dims=[5, 7])
    found.values.CopyFrom(tensor if of == "values" else numpy_helper.from_array(ones(35), "w"))
    found.indices.CopyFrom(tensor if of == "indices" else inside)
    return found


def _sparse_values(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = times_w([])
    graph.graph.sparse_initializer.append(_sparse(tensor, "values"))
    return graph


def _sparse_indices(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = times_w([])
    graph.graph.sparse_initializer.append(_sparse(tensor, "indices"))
    return graph


def _sparse_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["w"], sparse_value=_sparse(tensor, "values"))
    return times_w([node])


def _training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = linear()
    graph.training_info.add().initialization.initializer.append(tensor)
    return graph


def _training_step(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = linear()
    graph.training_info.add().algorithm.node.append(constant(tensor))
    return graph


PLACES: tuple[Callable[[onnx.TensorProto], onnx.ModelProto], ...] = (
    _initializer,
    _attribute,
    _attribute_list,
    _in_branch,
    _branch_initializer,
    _in_branch_of_branch,
    _graph_list,
    _in_function,
    _sparse_values,
    _sparse_indices,
    _sparse_attribute,
    _training,
    _training_step,
)


def function(name: str, nodes: Nodes) -> onnx.FunctionProto:
    """y = name(x), callable from the others of its domain."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, opsets)


def call(name: str, x: str = "x", y: str = "y") -> onnx.NodeProto:
    return helper.make_node(name, [x], [y], domain=DOMAIN)


def calling(functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    """A model that is one call of the function "f0"."""
    graph = model([call("f0")], [1, 5], [1, 5])
    graph.functions.extend(functions)
    graph.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return graph


def files(root: Path, canary: Path) -> Iterator[Hostile]:
    """For the opener of models."""
    names = list(routes(fresh(root / "names"), canary))
    for place in PLACES:
        for name in names:
            folder = fresh(root / f"{place.__name__}-{name}")
            content = place(kept_outside(routes(folder, canary)[name])).SerializeToString()
            path = folder / "model.onnx"
            path.write_bytes(content)
            yield Hostile(f"external {place.__name__.strip('_')} {name}", "onnx", path)


def engines(root: Path, canary: Path) -> Iterator[Hostile]:
    """The same for the runtime that opens engines."""
    names = set(routes(fresh(root / "names"), canary))
    # ONNX Runtime follows a hard link, which only a writer of the engine's own folder can make.
    for name in sorted(names - {"hard-link"}):
        folder = fresh(root / name)
        content = _initializer(kept_outside(routes(folder, canary)[name]))
        path = folder / "engine.onnx"
        path.write_bytes(content.SerializeToString())
        yield Hostile(f"engine external {name}", "engine", path)
