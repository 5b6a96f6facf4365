"""Imports point one way between layers and between rooms; judging needs no torch."""

import subprocess
import sys

import pytest
from rooms import ROOT, circles, file_arrows, imports, levels, room_arrows

ORDER = """
profiles profiles.errors profiles.printable profiles.statistics
profiles.machine profiles.spec
profiles.budget profiles.host profiles.looks profiles.plugins
profiles.device profiles.measurement profiles.waiver
profiles.figures profiles.requirements
profiles.limits
profiles.gate
exporters exporters.arrays
exporters.board
exporters.exporter exporters.columns
exporters.parity exporters.board_program
exporters.graph exporters.worker
exporters.engines
pipeline pipeline.data
pipeline.task
pipeline.network
pipeline.layers pipeline.train
pipeline.scoring pipeline.store
pipeline.measure pipeline.repair
pipeline.prune pipeline.release
pipeline.report pipeline.stages pipeline.api
pipeline.recipe
pipeline.flow
pipeline.commands
pipeline.cli
"""
"""The rooms, the lowest first: each imports from those of the lines above it alone."""
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


def test_every_room_imports_only_from_rooms_below_it() -> None:
    place = {room: line for line, rooms in enumerate(ORDER.splitlines()) for room in rooms.split()}
    arrows = room_arrows(ROOT)
    assert set(arrows) == set(place)
    upwards = {
        (room, other) for room in arrows for other in arrows[room] if place[other] >= place[room]
    }
    assert upwards == set()


def test_no_test_is_imported_by_any_other_file() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")}
    assert len(tests) > 50
    imported = {(path.stem, name.rpartition(".")[2]) for path in files for name in imports(path)}
    assert {pair for pair in imported if pair[1] in tests} == set()


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles(file_arrows(ROOT)) == []


def test_a_circle_is_seen() -> None:
    arrows = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset()}
    assert circles(arrows) == [frozenset("bc")]
    assert levels(arrows) == [frozenset("d")]


def test_no_file_is_longer_than_a_reader_can_take_in() -> None:
    folders = ("profiles", "exporters", "pipeline", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    assert [path.name for path in files if len(path.read_text().splitlines()) > 400] == []


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
