"""Weights that do not fit are refused by name, and a pickle never runs."""

import io
import pickle  # noqa: TID251 - what is refused has to be made
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torchvision import models
from user_project import NETWORK, TASK, Canary, Project

from pipeline.network.weights import load_weights, read_weights, write_weights
from profiles.errors import ConfigError

Tensors = dict[str, Tensor]

TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (
        lambda t: {name: value for name, value in t.items() if not name.startswith("bn.")},
        "does not fit the network: 4 missing, such as bn.weight",
    ),
    "extra": (lambda t: t | {"more": torch.ones(1)}, "1 unknown, such as more"),
    "both": (
        lambda t: {name.replace("fc.", "module.fc."): value for name, value in t.items()},
        "2 missing, such as fc.weight; 2 unknown, such as module.",
    ),
    "shape": (
        lambda t: t | {"fc.weight": torch.ones(4, 17), "fc.bias": torch.ones(3)},
        "weights of another architecture (2 tensors differ in shape, such as fc.weight: "
        "[4, 17] in the file, [4, 16] in the network)",
    ),
    "dimensions": (lambda t: t | {"fc.weight": torch.ones(64)}, "[64] in the file, [4, 16] in"),
    "more classes": (
        lambda t: t | {"fc.weight": torch.ones(9, 16), "fc.bias": torch.ones(9)},
        "does not fit the network: fc.weight has 9 outputs in the file, 4 in the network; "
        "set task.classes = 9 for a network of torchvision or timm, or build your own with 9",
    ),
    "fewer classes": (
        lambda t: t | {"fc.weight": torch.ones(3, 16), "fc.bias": torch.ones(3)},
        "fc.weight has 3 outputs in the file, 4 in the network; set task.classes = 3",
    ),
    "heads that disagree": (
        lambda t: t | {"fc.weight": torch.ones(9, 16), "fc.bias": torch.ones(8)},
        "2 tensors differ in shape, such as fc.weight",
    ),
    "NaN": (lambda t: t | {"fc.bias": torch.full((4,), torch.nan)}, "fc.bias holds NaN"),
    "infinite weight": (
        lambda t: t | {"inner.weight": torch.full((16, 16, 3, 3), -torch.inf)},
        "inner.weight holds infinity (as torch.float32); the training went wrong, train again",
    ),
    "weight beyond the network's type": (
        lambda t: t | {"fc.bias": torch.full((4,), 1e300, dtype=torch.float64)},
        "fc.bias holds infinity (as torch.float32)",
    ),
    "infinite mean": (
        lambda t: t | {"bn.running_mean": torch.full((16,), torch.inf)},
        "bn.running_mean holds infinity",
    ),
    "infinite variance": (
        lambda t: t | {"bn.running_var": torch.full((16,), torch.inf)},
        "bn.running_var holds infinity",
    ),
    "negative variance": (
        lambda t: t | {"bn.running_var": t["bn.running_var"] - 2},
        "bn.running_var holds a negative variance; the training went wrong",
    ),
    "integers": (
        lambda t: t | {"stem.weight": t["stem.weight"].to(torch.int64)},
        "stem.weight is torch.int64, in the network torch.float32; save the weights as",
    ),
    "complex numbers": (
        lambda t: t | {"fc.bias": t["fc.bias"].to(torch.complex64)},
        "fc.bias is torch.complex64, in the network torch.float32",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_named(case: str, project: Project) -> None:
    change, says = TENSORS[case]
    path = project.folder / "weights.safetensors"
    save_file(change(load_file(path)), path)
    project.refuses(2, f"{path}", says)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model."])
def test_a_prefix_on_every_name_is_called_so_and_how_to_take_it_off(
    prefix: str, project: Project
) -> None:
    path = project.folder / "weights.safetensors"
    plain = load_file(path)
    save_file({f"{prefix}{name}": value for name, value in plain.items()}, path)
    outcome = project.prune()
    outcome.says(2, f"{path} does not fit the network: every name in it begins with {prefix!r}")
    remedy = outcome.err.partition("Take it off once: ")[2]
    names = {"safetensors": safetensors, "old": path, "new": path}
    exec(remedy, names)
    assert load_file(path).keys() == plain.keys()
    assert project.prune().code == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_width_are_taken(dtype: torch.dtype, project: Project) -> None:
    path = project.folder / "weights.safetensors"
    tensors = load_file(path)
    save_file({n: v.to(dtype) if v.is_floating_point() else v for n, v in tensors.items()}, path)
    assert project.slimgate("plan", project.folder / "recipe.toml").code == 0


def test_a_buffer_that_is_no_statistic_may_be_infinite() -> None:
    network = nn.Linear(2, 2)
    mask = torch.full((2, 2), -torch.inf).triu(1)
    network.register_buffer("mask", torch.zeros(2, 2))
    load_weights(network, network.state_dict() | {"mask": mask}, "weights")
    assert torch.equal(network.get_buffer("mask"), mask)


def test_indices_that_are_floats_must_be_whole_and_a_count_of_batches_may_be_any() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2))
    network.register_buffer("index", torch.zeros(2, dtype=torch.int64))
    averaged = {"0.num_batches_tracked": torch.tensor(1.5), "index": torch.tensor([3.0, 4.0])}
    load_weights(network, network.state_dict() | averaged, "weights")
    assert network.get_buffer("index").tolist() == [3, 4]
    with pytest.raises(ConfigError, match=r"index is torch\.float32, in the network torch\.int64"):
        load_weights(network, network.state_dict() | {"index": torch.ones(2) / 2}, "weights")


def test_values_that_a_network_comes_with_are_checked_too(project: Project) -> None:
    harmed = "net = Net().eval()\n        net.bn.running_var.fill_(-1)\n        return net"
    (project.folder / "net.py").write_text(NETWORK.replace("return Net().eval()", harmed))
    project.task_recipe(TASK)
    project.refuses(2, "the network's function: bn.running_var holds a negative variance")


@pytest.mark.parametrize("case", ["shape", "more classes", "negative variance", "integers"])
def test_a_plan_finds_what_a_run_would_find_in_the_weights(case: str, project: Project) -> None:
    change, says = TENSORS[case]
    path = project.folder / "weights.safetensors"
    save_file(change(load_file(path)), path)
    project.slimgate("plan", project.folder / "recipe.toml").says(2, f"{path}", says)


def test_a_plan_refuses_a_pickle_and_does_not_run_it(project: Project) -> None:
    path, ran = project.folder / "weights.safetensors", project.folder / "ran"
    path.write_bytes(pickle.dumps(Canary(ran)))
    outcome = project.slimgate("plan", project.folder / "recipe.toml")
    outcome.says(7, f"{path}: is a pickle, which may run code")
    assert not ran.exists()


def test_a_plan_names_the_classes_that_the_weights_were_trained_with(project: Project) -> None:
    network = models.get_model("squeezenet1_1", weights=None, num_classes=7)
    write_weights(network, project.folder / "weights.safetensors")
    path = project.recipe(task={"network": "torchvision:squeezenet1_1", "classes": 4})
    says = "classifier.1.weight has 7 outputs in the file, 4 in the network; set task.classes = 7"
    project.slimgate("plan", path).says(2, says)
    generator = np.random.default_rng(0)
    project.put(
        train_x=generator.integers(0, 256, (64, 64, 64, 3), np.uint8),
        val_x=generator.integers(0, 256, (32, 64, 64, 3), np.uint8),
    )
    path = project.recipe(
        task={
            "network": "torchvision:squeezenet1_1",
            "classes": 7,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "size": 64,
        }
    )
    assert project.slimgate("plan", path).code == 0


def test_the_classes_of_a_network_with_two_heads_are_named() -> None:
    trained, network = (
        nn.ModuleDict({"body": nn.Linear(3, 5), "aux": nn.Linear(5, n), "head": nn.Linear(5, n)})
        for n in (6, 2)
    )
    with pytest.raises(ConfigError, match=r"aux\.weight has 6 outputs in the file, 2 in the netw"):
        load_weights(network, trained.state_dict(), "weights")


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
