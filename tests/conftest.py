"""A tiny project of every test's own: nothing run yet, run to its end, or released."""

import runpy
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from user_project import NETWORK, Array, Project

from pipeline.network.weights import write_weights

# The same examples in every run: tests that must reach every outcome would else fail by chance.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project of which every test gets a copy."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for split, count in (("train", 64), ("val", 32)):
        labels = np.arange(count) % 4
        images = generator.integers(0, 128, (count, 12, 12)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 6 * (label // 2), 6 * (label % 2)
            image[top : top + 6, left : left + 6] += np.uint8(100)
        arrays |= {f"{split}_x": images, f"{split}_y": labels}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    network = runpy.run_path(str(folder / "net.py"))["network"]()
    train = torch.from_numpy(arrays["train_x"]), torch.from_numpy(arrays["train_y"])
    solve_head(network, (train[0][:, None] / 255 - 0.5) / 0.25, train[1])
    write_weights(network, folder / "weights.safetensors")
    project = Project(folder)
    project.recipe()
    return project


@pytest.fixture
def project(template: Project, tmp_path: Path) -> Project:
    """A tiny project of the test's own, nothing run yet."""
    shutil.copytree(template.folder, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def complete(template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The template after a complete run."""
    folder = tmp_path_factory.mktemp("complete") / "project"
    shutil.copytree(template.folder, folder)
    project = Project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.measure.sessions.SESSIONS", 1)  # no limit here is on time
        outcome = project.slimgate("run", folder / "recipe.toml")
    assert outcome.code == 0, outcome.err
    return project


@pytest.fixture
def released(complete: Project, tmp_path: Path) -> Project:
    """A project of the test's own with a whole store and a bundle that passes."""
    shutil.copytree(complete.folder, tmp_path / "project")
    return Project(tmp_path / "project")


def solve_head(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Fit `network.fc`, so that the network is better than chance without any training."""
    head = network.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    features: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: features.append(given[0].double()))
    with torch.no_grad():
        network(images)
        handle.remove()
        given = torch.cat([features[0], torch.ones(len(images), 1)], 1)
        wanted = 10 * torch.eye(head.out_features, dtype=torch.float64)[labels]
        solution = torch.linalg.lstsq(given, wanted).solution.float()
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])
