"""The opener: a model that is all in its own plain file opens, everything else is refused."""

import os
import pickle  # noqa: TID251  # to make what must be refused
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_graphs import feeds, linear, model, ones

from exporters.graph.open import open_onnx
from profiles.errors import ConfigError, IntegrityError

SECRET = ones(5, 7)


def write(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def outside(location: str) -> onnx.TensorProto:
    """A weight that is kept in another file."""
    tensor = numpy_helper.from_array(SECRET, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(SECRET.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def matmul(weight: onnx.TensorProto, place: str) -> onnx.ModelProto:
    """y = x w, with w as an initializer, in a node, or in a branch of a node."""
    if place == "initializer":
        graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 5], [1, 7])
        graph.graph.initializer.append(weight)
        return graph
    held = helper.make_node("Constant", [], ["w"], value=weight)
    if place == "node":
        return model([held, helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 5], [1, 7])
    out = helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [5, 7])
    branch = helper.make_graph([held], "branch", [], [out])
    yes = numpy_helper.from_array(np.array(True))
    nodes: Sequence[onnx.NodeProto] = [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["x", "chosen"], ["y"]),
    ]
    return model(nodes, [1, 5], [1, 7])


def test_a_model_of_its_own_opens_as_it_is(tmp_path: Path) -> None:
    assert open_onnx(write(tmp_path, linear())) == linear()
    for place in ("initializer", "node", "branch"):
        graph = matmul(numpy_helper.from_array(SECRET, "w"), place)
        assert open_onnx(write(tmp_path, graph)) == graph


@pytest.mark.parametrize("place", ["initializer", "node", "branch"])
@pytest.mark.parametrize("where", ["beside", "above", "absolute", "nowhere"])
def test_weights_outside_the_file_are_refused_wherever_they_are(
    tmp_path: Path, place: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for secret in (tmp_path / "secret", folder / "secret"):
        secret.write_bytes(SECRET.tobytes())
    location = {
        "beside": "secret",
        "above": "../secret",
        "absolute": str(tmp_path / "secret"),
        "nowhere": "none",
    }[where]
    with pytest.raises(IntegrityError, match="outside the file"):
        open_onnx(write(folder, matmul(outside(location), place)))


def test_links_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, linear())
    (tmp_path / "soft.onnx").symlink_to(path)
    with pytest.raises(IntegrityError, match="a link"):
        open_onnx(tmp_path / "soft.onnx")
    os.link(path, tmp_path / "hard.onnx")
    for name in ("hard.onnx", "model.onnx"):
        with pytest.raises(IntegrityError, match="plain file of its own"):
            open_onnx(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_onnx(tmp_path / "none.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path, tmp_path / "pipe.onnx"):
        with pytest.raises(IntegrityError, match="not a plain file"):
            open_onnx(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"\0" * 999, pickle.dumps({"weight": [1.0]}), b"PK\x03\x04" + b"\0" * 99],
    ids=["empty", "garbage", "zeros", "pickle", "zip"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"model\.onnx"):
        open_onnx(write(tmp_path, content))


def cyclic() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return model([*nodes, helper.make_node("Relu", ["x"], ["y"])], [1, 5], [1, 5])


def twice() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])] * 2, [1, 5], [1, 5])


def unknown() -> onnx.ModelProto:
    return model([helper.make_node("NoSuchOp", ["x"], ["y"])], [1, 5], [1, 5])


def misshapen() -> onnx.ModelProto:
    gemm = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([gemm], [1, 5], [1, 7], {"w": ones(6, 7)})


def short() -> onnx.ModelProto:
    graph = linear()
    graph.graph.initializer[0].raw_data = b"\0\0"
    return graph


@pytest.mark.parametrize("build", [cyclic, twice, unknown, misshapen, short])
def test_a_graph_that_is_not_valid_is_refused(tmp_path: Path, build: type[onnx.ModelProto]) -> None:
    with pytest.raises(ConfigError, match="not a valid ONNX model"):
        open_onnx(write(tmp_path, build()))


def test_a_damaged_file_is_refused_or_still_a_valid_model(tmp_path: Path) -> None:
    weight = feeds(5, 7)[0]
    whole = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 5], [1, 7], {"w": weight})
    content = whole.SerializeToString()
    reached = set()

    @settings(deadline=None)
    @example(content.index(weight.tobytes()), "flip")
    @example(1, "cut")
    @given(st.integers(0, len(content) - 1), st.sampled_from(["cut", "flip", "zero"]))
    def holds(place: int, damage: str) -> None:
        raw = bytearray(content)
        if damage == "cut":
            raw = raw[:place]
        else:
            raw[place] = raw[place] ^ 0x80 if damage == "flip" else 0
        try:
            found = open_onnx(write(tmp_path, bytes(raw)))
        except (ConfigError, IntegrityError):
            reached.add("refused")
            return
        onnx.checker.check_model(found, full_check=True)
        reached.add("unharmed" if found == whole else "another model")

    holds()
    assert reached >= {"refused", "another model"}
