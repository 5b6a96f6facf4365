"""Imports point one way: pipeline -> exporters -> profiles; judging needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE = {"profiles": {"exporters", "pipeline", "torch"}, "exporters": {"pipeline"}}
RUNS_WITHOUT_TORCH = {
    "profiles.gate",
    "profiles.measurement",
    "pipeline.release.bundle",
    "pipeline.cli",
    "pipeline.report.html",
    "pipeline.measure.board",
    "pipeline.measure.places",
    "exporters.board.main",
    "exporters.worker",
    "exporters.engines.ort",
}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("layer", ABOVE)
def test_a_layer_imports_nothing_above_it(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert len(files) > 5
    wrong = {
        (path.name, name)
        for path in files
        for name in imports(path)
        if name.partition(".")[0] in ABOVE[layer]
    }
    assert wrong == set()


def test_the_lowest_layer_needs_three_libraries_and_python() -> None:
    found = {
        name.partition(".")[0]
        for path in (ROOT / "profiles").rglob("*.py")
        for name in imports(path)
    }
    assert found - sys.stdlib_module_names == {"profiles", "numpy", "scipy", "pydantic"}


@pytest.mark.parametrize("module", sorted(RUNS_WITHOUT_TORCH))
def test_what_judges_and_measures_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, {module!r} in sys.modules)"
    assert python(code).split() == ["False", "True"]


def test_help_loads_neither_numpy_nor_torch() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['slimgate', '--help']\n"
        "from pipeline.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "heavy = ('numpy', 'scipy', 'onnx', 'onnxruntime', 'torch')\n"
        "print('loaded:', *(name for name in heavy if name in sys.modules))"
    )
    printed = python(code)
    assert "Exit codes" in printed
    assert printed.splitlines()[-1].strip() == "loaded:"
