"""A new runtime is one file in `exporters/engines/`, and everything else takes it from there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from added_runtime import added_runtime
from user_project import Project

from exporters.exporter import reported_distributions, runtime_distributions
from pipeline.recipe import read_recipe
from profiles.errors import ConfigError

REFERENCE = '''"""onnx's own evaluator, which computes a graph in numpy."""

from typing import ClassVar

import numpy as np

from exporters.board.library_calls import library_errors_as
from exporters.board.session import TensorSpec
from exporters.exporter import BuildFacts, Exporter
from profiles.errors import DeviceError
from profiles.machine.facts import versions


class ReferenceSession:
    def __init__(self, path):
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(path)

    @property
    def inputs(self):
        (value,) = self._evaluator.proto_.graph.input
        dims = value.type.tensor_type.shape.dim
        return (TensorSpec(value.name, "float32", tuple(d.dim_value or None for d in dims)),)

    def run(self, feed):
        return self._evaluator.run(None, dict(feed))


class Reference(Exporter):
    suffix: ClassVar[str] = ".reference.onnx"
    ON_GPU: ClassVar[bool] = True
    LARGEST_BATCH: ClassVar[int | None] = 8
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("typer",)

    def build(self, source, engine):
        engine.write_bytes(source.model.read_bytes())
        return BuildFacts()

    def open(self, engine):
        with library_errors_as(DeviceError, f"onnx cannot load {engine.name}"):
            return ReferenceSession(str(engine))

    def environment(self):
        return versions(("onnx",))
'''


CROOKED = '''"""ONNX Runtime under another name, whose outputs are 2 % too large."""

from typing import ClassVar

from exporters.board.session import TensorSpec
from exporters.engines.ort import Ort
from exporters.exporter import Exporter
from profiles.device import Precision


class CrookedSession:
    def __init__(self, inner):
        self.inputs, self._inner = inner.inputs, inner

    def run(self, feed):
        return [1.02 * output for output in self._inner.run(feed)]


class Crooked(Exporter):
    suffix: ClassVar[str] = ".crooked.onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

    def build(self, source, engine):
        return Ort(precision=self.precision).build(source, engine)

    def open(self, engine):
        return CrookedSession(Ort(precision=self.precision).open(engine))

    def environment(self):
        return {}
'''


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_runtime_that_is_wrong_at_fp32_is_not_trusted_below_it(
    precision: str, project: Project, tmp_path: Path
) -> None:
    """2 % may be rounding at fp16 and int8; at fp32 they are not."""
    path = project.folder / "device.toml"
    path.write_text(f'description = "mine"\nengine = "crooked"\nprecision = "{precision}"\n')
    recipe = project.recipe(target={"device": path.name})
    with added_runtime("crooked", CROOKED, tmp_path / "plugins"):
        outcome = project.slimgate("build", recipe, "--out", project.out)
    outcome.says(5, "building with crooked at fp32 changed the network")
    assert not project.out.exists()


@pytest.fixture
def added(tmp_path: Path) -> Iterator[None]:
    with added_runtime("reference", REFERENCE, tmp_path / "plugins"):
        yield


def device(project: Project, batch: int = 1) -> str:
    path = project.folder / "device.toml"
    path.write_text(f'description = "mine"\nengine = "reference"\nbatch = {batch}\n')
    return path.name


def test_it_is_named_built_verified_and_timed(
    added: None, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.measure.sessions.SESSIONS", 1)
    assert "reference" in project.slimgate("list").out
    recipe = project.recipe()
    outcome = project.slimgate(
        "build", recipe, "--out", project.out, "--engines", "reference", "--json"
    )
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["engines"]
    assert (row["engine"], row["status"]) == ("reference", "verified")
    assert row["error"] < 1e-4
    assert row["time_ratio"]["measured"] > 0
    assert (project.out / "reference-fp32.reference.onnx").exists()


def test_a_device_profile_names_it_and_takes_its_properties(added: None, project: Project) -> None:
    recipe = project.recipe(target={"device": device(project)})
    _, (target,) = read_recipe(recipe)
    assert target.device.on_gpu
    assert target.device.clock == "wall"
    outcome = project.slimgate("build", recipe, "--out", project.out)
    assert outcome.code == 0, outcome.err
    assert (project.out / "engine.reference.onnx").exists()


def test_a_batch_beyond_its_largest_is_refused(added: None, project: Project) -> None:
    named = device(project, batch=9)
    recipe = project.recipe(target={"device": named}, export={"dynamic_batch": True})
    with pytest.raises(ConfigError, match="batches of 9; reference engines take 8 at most"):
        read_recipe(recipe)


def test_its_distributions_are_in_every_measurement(added: None) -> None:
    assert "typer" in runtime_distributions()
    assert "typer" in reported_distributions()
