"""The program for boards as one file: our own sources, and nothing else, as Python runs a zip."""

from importlib.util import find_spec
from pathlib import Path

from exporters.board.archive import pack

ROOMS = ("exporters.board", "exporters.board.sessions", "profiles.machine")
"""Every module of these is packed; all of them are Python 3.8."""
ALONE = ("exporters", "profiles", "profiles.errors")
"""Modules that those need besides."""
MAIN = "import sys\nfrom exporters.board.main import main\nsys.exit(main())\n"


def board_program() -> bytes:
    """The zip; the same bytes for the same sources."""
    sources = {name: source_of(name) for name in board_modules()}
    files = {_path(name, source): source.read_bytes() for name, source in sources.items()}
    return pack({"__main__.py": MAIN.encode(), **files})


def board_modules() -> tuple[str, ...]:
    """Whatever `exporters.board.main` may import, by name."""
    rooms = [(room, source_of(room).parent) for room in ROOMS]
    found = [f"{room}.{path.stem}" for room, folder in rooms for path in folder.glob("[a-z]*.py")]
    return tuple(sorted((*ALONE, *ROOMS, *found)))


def source_of(module: str) -> Path:
    """The file that a module of ours is in."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def _path(module: str, source: Path) -> str:
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if source.name == "__init__.py" else f"{folder}.py"
