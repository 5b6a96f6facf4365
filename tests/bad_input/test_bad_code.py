"""What the user's own code does wrong is told with the line of the user's file."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from user_project import NETWORK, TASK, Project

from pipeline.data.arrays import FloatArray, Split, Targets
from pipeline.data.batches import balanced_indices, batches
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import engine_file, score_engine
from pipeline.task import Task
from profiles.device import load_device
from profiles.errors import ConfigError, SlimgateError


def put(project: Project, name: str, source: str, old: str, new: str) -> str:
    """Write a file with one line changed; where that line is, as a message tells it."""
    assert source.count(old) == 1
    (project.folder / name).write_text(source.replace(old, new))
    return f"{project.folder / name}:{source[: source.index(old)].count(chr(10)) + 1}"


STEM = "        x = torch.relu(self.bn(self.stem(x)))\n"
SEED = "        torch.manual_seed(0)\n"
NETWORKS = {
    "syntax": ("class Net(nn.Module):", "clas Net(nn.Module):", "raised SyntaxError"),
    "import": (
        "import torch\n",
        "import nothing_of_the_kind\n",
        "raised ModuleNotFoundError: No mo",
    ),
    "at import": ("import torch\n", "import torch; 1 / 0\n", "raised ZeroDivisionError: division"),
    "leaving": ("import torch\n", "import torch; exit(0)\n", "raised SystemExit: 0"),
    "network": (SEED, "        {}['width']\n", "the network's function raised KeyError: 'width'"),
    "network leaves": (SEED, "        raise SystemExit\n", "function raised SystemExit"),
    "forward": (STEM, "        raise OSError('no')\n", "the network raised OSError: no"),
    "forward in torch": (
        STEM,
        "        x = torch.ones(2) @ torch.ones(3)\n",
        "raised RuntimeError: ",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_an_error_in_the_networks_file_is_told_with_its_line(case: str, project: Project) -> None:
    old, new, says = NETWORKS[case]
    where = put(project, "net.py", NETWORK, old, new)
    project.refuses(2, says, f"({where})")


OUTPUTS = {
    "tuple": ("return features, features", "found tuple"),
    "dict": ("return {'logits': features}", "found dict"),
    "scalar": ("return features.sum()", "found []"),
    "vector": ("return features[:, 0]", "found [8]"),
    "list": ("return [features]", "found list"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_network_that_returns_no_single_tensor_is_told_so(case: str, project: Project) -> None:
    code, says = OUTPUTS[case]
    source = NETWORK.replace("        return self.fc(", "        features = self.fc(")
    (project.folder / "net.py").write_text(
        source.replace("\n\n\ndef n", f"\n        {code}\n\ndef n")
    )
    project.refuses(2, "the network must return one tensor [n, ...] for n = 8", says)


@pytest.mark.parametrize("code", ["return features, features", "raise OSError('no')"])
def test_run_says_of_a_network_what_prune_says(code: str, project: Project) -> None:
    source = NETWORK.replace("        return self.fc(", "        features = self.fc(")
    (project.folder / "net.py").write_text(
        source.replace("\n\n\ndef n", f"\n        {code}\n\ndef n")
    )
    project.slimgate("run", project.folder / "recipe.toml").says(2, "the network ")
    assert not project.bundle.exists()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("net.py:netwrok", "net.py: has no function 'netwrok'"),
        ("nett.py:network", "nett.py: no such file"),
        ("net.py:torch", "net.py: has no function 'torch'"),
        ("torchvision:resnet81", "torchvision has no model 'resnet81'; nearest: resnet18, "),
        ("torchvision:zzzzzz", "torchvision has no model 'zzzzzz'; nearest: none like it"),
    ],
)
def test_a_network_that_is_not_there_is_named(network: str, says: str, project: Project) -> None:
    project.recipe(task={"network": network})
    project.refuses(2, says)


def test_a_model_that_timm_has_not_is_named_with_the_nearest(project: Project) -> None:
    pytest.importorskip("timm")
    project.recipe(task={"network": "timm:resnet_18"})
    project.refuses(2, "timm has no model 'resnet_18'; nearest: resnet18, ")


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    project.recipe(task={"network": "timm:resnet18"})
    project.refuses(3, "timm is not installed: pip install 'slimgate[timm]'")


@pytest.mark.parametrize(
    ("returned", "says"),
    [("3", "the network's function returned int"), ("Net", "the network's function returned type")],
)
def test_a_function_that_returns_no_network_is_told_so(
    returned: str, says: str, project: Project
) -> None:
    (project.folder / "net.py").write_text(NETWORK.replace("Net().eval()", returned))
    project.refuses(2, says)


TASKS = {
    "not a task": ("return Task(", "return dict(", "task.py:task returned dict, not pipeline.task"),
    "a field missing": (", validation=Data(32)", "", "missing 1 required positional argument"),
    "a network for a function": (
        "network=network",
        "network=network()",
        "Task.network must be a function that builds a network",
    ),
    "no training data": ("Data(48)", "Data(0)", "training and validation data must not be empty"),
    "no validation data": ("Data(32)", "[]", "training and validation data must not be empty"),
    "no length": ("Data(32)", "iter([])", "the length of the data raised TypeError"),
    "loss": ("(32))", "(32), loss=lambda o, t: o.foo)", "the loss raised AttributeError: 'Tensor'"),
    "loss leaves": ("(32))", "(32), loss=lambda o, t: exit(0))", "the loss raised SystemExit: 0"),
    "loss a sample": (
        "(32))",
        "(32), loss=lambda o, t: o.mean(1))",
        "the loss must be one number, found shape [32]",
    ),
    "NaN": (
        "return self.inputs[index],",
        "return self.inputs[index] / (index != 7),",
        "sample 7 holds NaN or infinity; check the data",
    ),
    "ragged": (
        "return self.inputs[index],",
        "return self.inputs[index][:, : 12 - (index == 7)],",
        "differ in shape: [1, 12, 12] and [1, 11, 12]; make them alike",
    ),
    "sample raises": (
        "return self.inputs[index],",
        "return self.inputs[index if index != 7 else 99],",
        "sample 7 raised IndexError: index 99 is out of bounds",
    ),
    "no pair": (
        "return self.inputs[index], self.targets[index]",
        "return self.inputs[index]",
        "sample 4 is not a pair of input and target, but a ndarray",
    ),
    "no number": (
        "return self.inputs[index], self.targets[index]",
        "return self.inputs[index], 'cat'",
        "sample 4: its target is <U3, not numbers",
    ),
    "no target": (
        "return self.inputs[index], self.targets[index]",
        "return self.inputs[index], None",
        "sample 4: its target is object, not numbers",
    ),
    "label": ("% 4", "% 5", "label 4 is out of range: the network has 4 outputs; check the labels"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("case", TASKS)
def test_what_is_wrong_with_a_task_is_told(case: str, project: Project) -> None:
    old, new, says = TASKS[case]
    assert old in TASK
    project.task_recipe(TASK.replace(old, new), prune={"samples": 48})
    project.refuses(2, says)


def test_an_error_in_a_data_set_is_told_with_its_line(project: Project) -> None:
    old, new = "        return self.inputs[index],", "        return self.inputs[index + 99],"
    where = put(project, "task.py", TASK, old, new)
    project.recipe(task={"file": "task.py:task"})
    project.refuses(2, "raised IndexError: index ", f"({where})")


@pytest.mark.parametrize("loss", ["1.0", "o.detach().mean()", "o.mean().item()"])
def test_a_loss_without_a_gradient_is_told_so(loss: str, project: Project) -> None:
    project.task_recipe(TASK.replace("(32))", f"(32), loss=lambda o, t: {loss})"))
    project.refuses(2, "the loss must be ")


@pytest.mark.parametrize("key", ["weights", "inputs"])
def test_a_file_that_a_task_names_must_be_there(key: str, project: Project) -> None:
    project.task_recipe(TASK)
    value = "none.bin" if key == "weights" else ["none.bin"]
    project.recipe(task={"file": "task.py:task", key: value})
    project.refuses(2, f"{project.folder / 'none.bin'}: cannot be read (No such file")


def test_a_task_file_may_hold_dataclasses_with_postponed_annotations(project: Project) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    point = "@dataclass\nclass Point:\n    x: int = 0\n"
    project.task_recipe(head + point + TASK)
    assert project.slimgate("plan", project.folder / "recipe.toml").code == 0


class Plain:
    """48 empty images whose `targets` are of whatever kind."""

    def __init__(self, targets: object, size: int = 2) -> None:
        self.targets, self._size = targets, size

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int, /) -> tuple[FloatArray, int]:
        return np.zeros((1, self._size, self._size), np.float32), index % 4


@pytest.mark.parametrize(
    "targets",
    [
        np.zeros((48, 2), int),
        [[0], [1, 2]] * 24,
        list(range(3)),
        [None] * 48,
        [{"box": 1}] * 48,
        len,
        None,
        torch.zeros(48, 3),
    ],
)
def test_targets_that_are_no_labels_leave_the_order_random(targets: object) -> None:
    split: Split = Plain(targets)
    assert sorted(balanced_indices(split, 48, 0)) == list(range(48))


def test_tensors_are_taken_as_samples() -> None:
    samples = [(torch.ones(1, 2, 2, dtype=torch.float64), torch.tensor(3))] * 3
    inputs, targets = next(batches(samples, range(3), 3))
    np.testing.assert_array_equal(inputs, np.ones((3, 1, 2, 2), np.float32), strict=True)
    np.testing.assert_array_equal(targets, np.full(3, 3), strict=True)


def test_a_sample_that_needs_a_gradient_is_named() -> None:
    samples = [(torch.ones(2, requires_grad=True), 0)]
    with pytest.raises(ConfigError, match="sample 0 raised RuntimeError: Can't call numpy"):
        next(batches(samples, [0], 1))


Metric = Callable[[FloatArray, Targets], FloatArray]


def metric_raises(outputs: FloatArray, targets: Targets) -> FloatArray:
    raise LookupError("no such class")


def metric_of_nan(outputs: FloatArray, targets: Targets) -> FloatArray:
    return np.full(len(outputs), np.nan, np.float32)


def metric_of_the_batch(outputs: FloatArray, targets: Targets) -> FloatArray:
    return np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (
            metric_raises,
            rf"the metric raised LookupError: no such class \(.*{Path(__file__).name}:",
        ),
        (metric_of_nan, "sample 0: NaN or infinite score of the metric"),
        (metric_of_the_batch, "2 scores for 48 samples; return one score for each"),
    ],
)
def test_what_is_wrong_with_a_metric_is_told(metric: Metric, says: str, complete: Project) -> None:
    images = Plain(None, size=12)
    task = Task(torch.nn.Flatten, images, images, metric=metric)
    device = load_device("host", Path())
    with pytest.raises(SlimgateError, match=says):
        score_engine(ThisMachine(), engine_file(complete.bundle / "engine.onnx", device), task)


NOTHING = {
    "one layer": (
        "nn.Sequential(nn.Flatten(), nn.Linear(144, 4))",
        "(1: its channels are the network's output)",
    ),
    "no layer": ("nn.Flatten()", "(no group found)"),
    "a parameter": (
        "Scaled()",
        "(stem: the tensor scale takes part, whose channels cannot be removed;",
    ),
}
SCALED = """
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc((self.stem(x) * self.scale).mean((2, 3)))


def network"""


@pytest.mark.parametrize("case", NOTHING)
def test_a_network_with_nothing_to_prune_is_told_why(case: str, project: Project) -> None:
    network, says = NOTHING[case]
    source = NETWORK.replace("def network", SCALED.lstrip()).replace("Net().eval()", network)
    (project.folder / "net.py").write_text(source)
    project.task_recipe(TASK)
    project.refuses(5, "the network has nothing to prune", says)


def test_a_ratio_that_cannot_be_reached_is_known_to_plan(project: Project) -> None:
    recipe = project.recipe(prune={"macs_ratio": 0.01, "floor": 8})
    outcome = project.slimgate("plan", recipe)
    assert outcome.code == 0
    (doubt,) = [line for line in outcome.out.splitlines() if line.startswith("prune: ")]
    assert "a floor of 8 channels and multiples of 2 reaches no less than 0." in doubt
    assert "set a smaller prune.multiple or prune.floor" in doubt


def test_a_ratio_that_cannot_be_reached_is_told_the_smallest_that_can(project: Project) -> None:
    project.recipe(prune={"macs_ratio": 0.01, "floor": 8})
    outcome = project.prune()
    outcome.says(5, "a floor of 8 channels and multiples of 2 reaches no less than 0.", "of dense")
    assert not project.stages()
    least = float(outcome.err.split("no less than ")[1].split()[0])
    project.recipe(prune={"macs_ratio": least + 0.001, "floor": 8})
    assert project.prune().code == 0


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_training_that_diverges_stores_nothing(batch_size: int, project: Project) -> None:
    path = project.recipe(
        finetune={"epochs": 3, "optimizer": "sgd", "learning_rate": 1e6, "batch_size": batch_size}
    )
    assert project.prune().code == 0
    before = project.stages()
    outcome = project.slimgate("finetune", path, "--out", project.folder / "tuned")
    outcome.says(5, "lower the learning rate")
    assert project.stages() == before
    assert not project.leftovers()
    assert not (project.folder / "tuned").exists()
