"""Hostile ONNX files: broken graphs, absurd sizes, bombs, damage."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from hostile_external_data import FLOAT, branch_of, call, calling, constant, function, times_w
from hostile_file import Hostile, damaged, fresh
from onnx import helper, numpy_helper
from onnx_graphs import linear, model, ones


def doubling(depth: int) -> onnx.ModelProto:
    """2 ** `depth` nodes once its functions are put in place."""
    relu = function(f"f{depth}", [helper.make_node("Relu", ["x"], ["y"])])
    return calling(
        [
            function(f"f{i}", [call(f"f{i + 1}", "x", "a"), call(f"f{i + 1}", "a", "y")])
            for i in range(depth)
        ]
        + [relu]
    )


def long_function_called_often(count: int) -> onnx.ModelProto:
    """`count` squared nodes once its function is put in place."""
    values = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    chain = list(pairwise(values))
    body = function("f0", [helper.make_node("Relu", [a], [b]) for a, b in chain])
    graph = calling([body])
    del graph.graph.node[:]
    graph.graph.node.extend(call("f0", a, b) for a, b in chain)
    return graph


def uncalled(depth: int) -> onnx.ModelProto:
    """`doubling`, its functions there but not used."""
    graph = doubling(depth)
    graph.graph.node[0].CopyFrom(helper.make_node("Relu", ["x"], ["y"]))
    return graph


def calling_in_line(depth: int) -> onnx.ModelProto:
    relu = function(f"f{depth}", [helper.make_node("Relu", ["x"], ["y"])])
    return calling([function(f"f{i}", [call(f"f{i + 1}")]) for i in range(depth)] + [relu])


def nested_ifs(depth: int) -> onnx.ModelProto:
    last = branch_of([constant(numpy_helper.from_array(ones(5, 7)))])
    branch = last
    yes = numpy_helper.from_array(np.array(True))
    for place in range(depth):
        held = helper.make_node("Constant", [], [f"yes{place}"], value=yes)
        inner = helper.make_node("If", [f"yes{place}"], [f"w{place}"])
        for name, inside in (("then_branch", branch), ("else_branch", last)):
            inner.attribute.append(helper.make_attribute(name, inside))
        branch = branch_of([held, inner])
        branch.output[0].name = f"w{place}"
    return times_w(list(branch.node), branch.output[0].name)


def bottomless(depth: int) -> bytes:
    """Graphs in nodes in graphs, deeper than a builder can write."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # a graph of an attribute of a node
            content = bytes([field << 3 | 2]) + _varint(len(content)) + content
    return bytes([7 << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    more, last = divmod(number, 128)
    return bytes([last]) if not more else bytes([last | 128]) + _varint(more)


def endless_loop() -> onnx.ModelProto:
    """A loop of 2 ** 62 turns that keeps what every turn gives."""
    value = helper.make_tensor_value_info
    ends = [value("i", onnx.TensorProto.INT64, []), value("c", onnx.TensorProto.BOOL, [])]
    outs = [value("d", onnx.TensorProto.BOOL, []), value("z", FLOAT, [1, 5])]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["x"], ["z"])],
        *("body", ends, outs),
    )
    turns = numpy_helper.from_array(np.array(1 << 62))
    loop = [
        helper.make_node("Constant", [], ["n"], value=turns),
        helper.make_node("Loop", ["n", ""], ["y"], body=body),
    ]
    return model(loop, [1, 5], [None, 1, 5])


def _filled(count: int) -> onnx.ModelProto:
    """One node that asks for `count` squared numbers."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["y"])]
    graph = model(nodes, [1], [None, None])
    graph.graph.initializer.append(numpy_helper.from_array(np.array([count, count]), "n"))
    return graph


def _with_dims(*dims: int) -> onnx.ModelProto:
    """linear(), its weight said to be of another size than its bytes."""
    graph = linear()
    graph.graph.initializer[0].dims[:] = dims
    return graph


def _input(*shape: int) -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], list(shape), list(shape))


def _relus(*ends: tuple[str, str]) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in ends]
    return model(nodes, [1, 5], [1, 5])


def _edited(edit: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    graph = linear()
    edit(graph)
    return graph


def _recursive(*names: str) -> onnx.ModelProto:
    nexts = [*names[1:], names[0]]
    return calling([function(a, [call(b)]) for a, b in zip(names, nexts, strict=True)])


def _twice_a_weight(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(graph.graph.initializer[0])


BROKEN: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "cycle": lambda: _relus(("b", "a"), ("a", "b"), ("x", "y")),
    "cycle of one": lambda: _relus(("a", "a"), ("x", "y")),
    "cycle to the output": lambda: _relus(("y", "a"), ("a", "y")),
    "two of one name": lambda: _relus(("x", "y"), ("x", "y")),
    "the input given again": lambda: _relus(("x", "x"), ("x", "y")),
    "not in order": lambda: _relus(("a", "y"), ("x", "a")),
    "from nowhere": lambda: _relus(("a", "y")),
    "two weights of one name": lambda: _edited(_twice_a_weight),
    "no graph": lambda: _edited(lambda m: m.ClearField("graph")),
    "no version": lambda: _edited(lambda m: m.ClearField("ir_version")),
    "version of the future": lambda: _edited(lambda m: setattr(m, "ir_version", 1 << 40)),
    "no opset": lambda: _edited(lambda m: m.ClearField("opset_import")),
    "opset of the future": lambda: _edited(
        lambda m: setattr(m.opset_import[0], "version", 1 << 50)
    ),
    "negative opset": lambda: _edited(lambda m: setattr(m.opset_import[0], "version", -3)),
    "unknown operator": lambda: model([helper.make_node("System", ["x"], ["y"])], [1], [1]),
    "unknown domain": lambda: model([call("System")], [1], [1]),
    "function of itself": lambda: _recursive("f0"),
    "functions in a ring": lambda: _recursive("f0", "f1", "f2"),
    "functions in line": lambda: calling_in_line(1000),
    "functions doubling": lambda: doubling(40),
    "functions doubling twice": lambda: doubling(90),
    "function long and called often": lambda: long_function_called_often(20_000),
    "if in if without end": lambda: bottomless(2000),
    "weight of a tebibyte": lambda: _with_dims(1 << 20, 1 << 18),
    "weight that overflows": lambda: _with_dims(1 << 62, 1 << 62),
    "weight that wraps around": lambda: _with_dims(5, pow(5, -1, 1 << 64) * 4 % (1 << 64)),
    "negative weight": lambda: _with_dims(-2, 2),
    "two negatives": lambda: _with_dims(-2, -2),
    "weight of nothing": lambda: _with_dims(0, 2),
    "weight of too many dimensions": lambda: _with_dims(*[1] * 100_000),
    "weight of no type": lambda: _edited(
        lambda m: setattr(m.graph.initializer[0], "data_type", 99)
    ),
}
UNUSUAL: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "endless loop": endless_loop,
    "functions that nobody calls": lambda: uncalled(40),
    "if in if": lambda: nested_ifs(20),
    "input of exabytes": lambda: _input(1 << 40, 1 << 40),
    "negative input": lambda: _input(-1, -5),
    "input that overflows": lambda: _input((1 << 63) - 1, (1 << 63) - 1, 2),
    "filled with a tebibyte": lambda: _filled(1 << 19),
    "filled beyond counting": lambda: _filled(1 << 62),
    "filled with less than nothing": lambda: _filled(-4),
    "name of a megabyte": lambda: _relus(("x", "y" * (1 << 20)), ("x", "y")),
    "names with paths": lambda: _relus(("x", "../../../etc/passwd\0"), ("x", "y")),
}
"""Valid, or nearly so: to open them is harmless, to run them would not be."""


def convolution() -> onnx.ModelProto:
    """The network that is damaged."""
    weights = {"w": ones(4, 3, 3, 3), "b": ones(4), "m": ones(4, 7)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    return model(nodes, [1, 3, 6, 6], [1, 7], weights)


def _links(root: Path) -> Iterator[Hostile]:
    """The model itself is a link, or no file at all."""
    elsewhere = root / "elsewhere.onnx"
    elsewhere.write_bytes(linear().SerializeToString())
    for name in ("soft", "hard", "folder", "dangling", "circle", "absent"):
        path = root / f"{name}.onnx"
        yield Hostile(f"link {name}", "onnx", path)
    (root / "soft.onnx").symlink_to(elsewhere)
    (root / "hard.onnx").hardlink_to(elsewhere)
    (root / "folder.onnx").mkdir()
    (root / "dangling.onnx").symlink_to(root / "nothing")
    (root / "circle.onnx").symlink_to(root / "circle.onnx")


def files(root: Path) -> Iterator[Hostile]:
    """Every hostile ONNX file for the opener."""
    yield from _links(fresh(root / "links"))
    for family, builders in (("broken", BROKEN), ("unusual", UNUSUAL)):
        for place, (name, build) in enumerate(builders.items()):
            path = root / f"{family}{place}.onnx"
            content = build()
            path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
            yield Hostile(f"{family} {name}", "onnx", path, may_open=family == "unusual")
    yield from damaged(fresh(root / "damaged"), convolution().SerializeToString(), "onnx", 400)


def engines(root: Path) -> Iterator[Hostile]:
    """Damaged files for the runtime that opens engines."""
    raw = convolution().SerializeToString()
    yield from damaged(fresh(root), raw, "engine", 400)
