"""Weights that do not fit are refused by name, and a pickle never runs."""

import io
import pickle  # noqa: TID251 - what is refused has to be made
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from user_project import NETWORK, Canary, Project

from pipeline.network.weights import read_weights
from profiles.errors import ConfigError

Tensors = dict[str, Tensor]

TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (
        lambda t: {name: value for name, value in t.items() if not name.startswith("bn.")},
        "does not fit the network: 4 missing, such as bn.weight",
    ),
    "extra": (lambda t: t | {"more": torch.ones(1)}, "1 unknown, such as more"),
    "both": (
        lambda t: {f"module.{name}": value for name, value in t.items()},
        "17 missing, such as stem.weight; 20 unknown, such as module.",
    ),
    "shape": (
        lambda t: t | {"fc.weight": torch.ones(4, 17), "fc.bias": torch.ones(3)},
        "weights of another architecture (2 tensors differ in shape, such as fc.weight: "
        "[4, 17] in the file, [4, 16] in the network)",
    ),
    "dimensions": (lambda t: t | {"fc.weight": torch.ones(64)}, "[64] in the file, [4, 16] in"),
    "NaN": (lambda t: t | {"fc.bias": torch.full((4,), torch.nan)}, "fc.bias holds NaN"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_named(case: str, project: Project) -> None:
    change, says = TENSORS[case]
    path = project.folder / "weights.safetensors"
    save_file(change(load_file(path)), path)
    project.refuses(2, f"{path}", says)


RAW: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in the tensors": (lambda raw: raw[: len(raw) // 2], "not a readable safetensors file"),
    "cut in the header": (lambda raw: raw[:50], "not a safetensors file, or cut short"),
    "cut in the length": (lambda raw: raw[:5], "not a readable safetensors file"),
    "empty": (lambda _: b"", "not a readable safetensors file"),
    "random": (lambda _: np.random.default_rng(0).bytes(5000), "not a safetensors file"),
    "text": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "not a safetensors file"),
    "header of a list": (lambda _: struct.pack("<Q", 8) + b"[1, 2]  ", "not a safetensors file"),
    "broken header": (lambda _: struct.pack("<Q", 8) + b'{"a": 1,', "not a readable"),
    "huge header": (lambda _: struct.pack("<Q", 11 << 20) + b"{" * (11 << 20), "is larger than"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_file_that_is_no_safetensors_is_named(case: str, project: Project) -> None:
    change, says = RAW[case]
    path = project.folder / "weights.safetensors"
    path.write_bytes(change(path.read_bytes()))
    project.refuses(2, f"{path}: ", says)


@pytest.mark.parametrize(
    ("name", "says"), [("none.safetensors", "No such file"), (".", "Is a dir")]
)
def test_weights_that_are_no_file_are_named(name: str, says: str, project: Project) -> None:
    project.recipe(task={"weights": name})
    project.refuses(2, f"{project.folder / name}: cannot be read", says)


def torch_saved(value: object, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)  # noqa: TID251
    return buffer.getvalue()


def pickled(protocol: int) -> Callable[[object], bytes]:
    return lambda value: pickle.dumps(value, protocol)


PICKLES: dict[str, Callable[[object], bytes]] = {
    "torch's zip": lambda value: torch_saved(value, zipped=True),
    "torch's old form": lambda value: torch_saved(value, zipped=False),
    **{f"protocol {number}": pickled(number) for number in range(6)},
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_under_another_name_is_refused_and_does_not_run(
    case: str, project: Project
) -> None:
    path, ran = project.folder / "weights.safetensors", project.folder / "ran"
    path.write_bytes(PICKLES[case](Canary(ran)))
    project.refuses(7, f"{path}: is a pickle, which may run code", "safetensors.torch.save_file")
    assert not ran.exists()
    # The test would prove nothing if the payload did not run where it is let out.
    if "torch" in case:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)  # noqa: TID251
    else:
        pickle.loads(path.read_bytes())
    assert ran.exists()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    plain = save({"a": torch.arange(3.0)}, {"pad": ""})
    header = struct.unpack("<Q", plain[:8])[0]
    raw = save({"a": torch.arange(3.0)}, {"pad": "x" * (length - header)})
    assert struct.unpack("<Q", raw[:8])[0] == length
    assert raw[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw)
    assert torch.equal(read_weights(path)["a"], torch.arange(3.0))


def test_more_tensors_than_any_network_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({str(i): torch.empty(0) for i in range(100_001)}))
    with pytest.raises(ConfigError, match="larger than any real network's"):
        read_weights(path)


def test_pruned_weights_in_the_unpruned_network_are_called_so(project: Project) -> None:
    assert project.prune().code == 0
    project.recipe(task={"weights": "out/model.safetensors"})
    outcome = project.slimgate("prune", project.folder / "recipe.toml", "--out", "again")
    outcome.says(2, "holds pruned weights, but the network is unpruned", "plan.json")


def test_unpruned_weights_in_a_pruned_network_are_called_so(project: Project) -> None:
    (project.folder / "net.py").write_text(NETWORK.replace("return Net()", "return Net(width=8)"))
    project.refuses(2, "unpruned weights, but the network is pruned: give the pruned network's")


def test_weights_without_the_count_of_batches_are_taken(project: Project) -> None:
    path = project.folder / "weights.safetensors"
    tensors = load_file(path)
    save_file({n: v for n, v in tensors.items() if "num_batches_tracked" not in n}, path)
    assert project.prune().code == 0
