"""The program for boards as one file: our own sources, and nothing else, as Python runs a zip."""

from importlib.util import find_spec
from pathlib import Path

from exporters.board.archive import pack

PACKAGES = ("exporters.board", "exporters.board.sessions", "profiles.machine")
"""The packages of which every module is packed; all of them are Python 3.8."""
MODULES = ("exporters", "profiles", "profiles.errors")
"""The modules that those packages need besides."""
MAIN = "import sys\nfrom exporters.board.main import main\nsys.exit(main())\n"


def board_program() -> bytes:
    """The zip; the same bytes for the same sources."""
    sources = {name: source_of(name) for name in board_modules()}
    files = {_path(name, source): source.read_bytes() for name, source in sources.items()}
    return pack({"__main__.py": MAIN.encode(), **files})


def board_modules() -> tuple[str, ...]:
    """Whatever `exporters.board.main` may import, by name."""
    folders = {package: source_of(package).parent for package in PACKAGES}
    found = [f"{name}.{path.stem}" for name, at in folders.items() for path in at.glob("[a-z]*.py")]
    return tuple(sorted((*MODULES, *PACKAGES, *found)))


def source_of(module: str) -> Path:
    """The file that a module of ours is in."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def _path(module: str, source: Path) -> str:
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if source.name == "__init__.py" else f"{folder}.py"
