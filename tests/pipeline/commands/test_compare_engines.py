"""Comparing runtimes: a new one is one file, and each row is a verified engine or says why not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from added_runtime import added_runtime
from checkpoints import checkpoint

from pipeline.commands.compare_engines import (
    Compared,
    compare,
    comparison_json,
    engines_named,
    table,
)
from pipeline.flow import Flow
from pipeline.measure.sessions import Measure
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.recipe import Recipe, Target, resolved_targets
from pipeline.stages.prune import Prune
from pipeline.store.store import Store
from pipeline.task import FileTask
from profiles.budget import Budget
from profiles.errors import ConfigError
from profiles.statistics import Interval

TOY = '''"""ONNX Runtime under another name, with an obstacle at fp16."""

from typing import ClassVar

from exporters.exporter import BuildFacts, Exporter, Source
from profiles.device import Precision
from exporters.engines.ort import Ort as Inner
from exporters.board.sessions.ort import OrtSession


class Toy(Exporter):
    suffix: ClassVar[str] = ".toy.onnx"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")

    def build(self, source: Source, engine) -> BuildFacts:
        return Inner(threads=self.threads).build(source, engine)

    def open(self, engine) -> OrtSession:
        return Inner(threads=self.threads).open(engine)

    def environment(self) -> dict[str, str]:
        return {"toy": "1"}

    def unavailable_reason(self) -> str:
        return "it is only a toy" if self.precision == "fp16" else ""
'''


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    with added_runtime("toy", TOY, tmp_path / "plugins"):
        yield


def flow(store: Path) -> Flow:
    recipe = Recipe(
        task=FileTask(file="task.py:task"),
        recover=None,
        target=(Target(budget=Budget(macs_ratio=0.9)),),
        measure=Measure(processes=5, seconds=0.02),
    )
    prune = Prune(criterion=Magnitude(), allocator=Uniform(), macs_ratio=0.8)
    recipe = recipe.model_copy(update={"prune": prune.resolved(1)})
    return Flow(recipe, resolved_targets(recipe, Path()), checkpoint(), Store(store))


def test_a_runtime_is_one_file_and_is_compared_as_every_other(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.measure.sessions.SESSIONS", 1)  # no time is judged here
    asked = engines_named("toy,ort")
    rows = {(row.engine, row.precision): row for row in compare(flow(tmp_path / "store"), asked)}
    assert list(rows) == [("ort", p) for p in ("fp32", "fp16", "int8")] + [
        ("toy", p) for p in ("fp32", "fp16")
    ]
    found = rows["toy", "fp32"]
    assert (found.status, found.error is not None and found.error < 1e-4) == ("verified", True)
    assert found.score == rows["ort", "fp32"].score
    assert found.time_ratio is not None
    assert 0.3 < found.time_ratio.measured < 3
    other = rows["toy", "fp16"]
    assert (other.status, other.reason) == ("unverified", "it is only a toy")
    assert (other.score, other.time_ratio) == (None, None)
    assert other.size_mib


def test_an_unknown_runtime_is_told_the_known_ones() -> None:
    assert "ort" in engines_named("all")
    with pytest.raises(ConfigError, match=r"--engines: 'tensor' is none of: .*ort.*, all"):
        engines_named("ort, tensor")


def test_the_table_has_the_fastest_first_and_gaps_where_there_are_no_figures() -> None:
    slow = Compared("a", "fp32", "verified", "", None, 1, 0, 1, 0.5, Interval(2.0, 1.9, 2.1), 0)
    fast = Compared("b", "int8", "verified", "", None, 1, 0, 1, 0.4, Interval(0.5, 0.4, 0.6), 0)
    none = Compared("c", "fp32", "refused", "libc is not installed")
    lines = table([none, slow, fast]).splitlines()
    assert [line.split()[0] for line in lines] == ["engine", "b", "a", "c"]
    assert lines[3].endswith("libc is not installed")
    bad = Compared("d", "fp32", "verified", "", time_ratio=Interval(1.0, 0.0, float("inf")))
    rows = json.loads(comparison_json([fast, bad]))["engines"]
    assert rows[0]["time_ratio"] == {"measured": 0.5, "lower": 0.4, "upper": 0.6}
    assert rows[1]["time_ratio"] is None
