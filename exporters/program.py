"""The program for boards as one file: our own sources, and nothing else, as Python runs a zip."""

from importlib.util import find_spec
from pathlib import Path

from exporters.packed import pack

MODULES = (
    "exporters",
    "exporters.board",
    "exporters.foreign",
    "exporters.packed",
    "exporters.session",
    "exporters.sessions",
    "exporters.sessions.litert",
    "exporters.sessions.ncnn",
    "exporters.sessions.openvino",
    "exporters.sessions.ort",
    "exporters.sessions.trt",
    "exporters.stored",
    "exporters.trt_library",
    "profiles",
    "profiles.conditions",
    "profiles.energy",
    "profiles.errors",
    "profiles.fresh",
    "profiles.gpu",
    "profiles.latency",
    "profiles.machine",
    "profiles.memory",
)
"""Whatever `exporters.board` may import; all of it is Python 3.8."""
MAIN = "import sys\nfrom exporters.board import main\nsys.exit(main())\n"


def board_program() -> bytes:
    """The zip; the same bytes for the same sources."""
    sources = {name: source_of(name) for name in MODULES}
    files = {_path(name, source): source.read_bytes() for name, source in sources.items()}
    return pack({"__main__.py": MAIN.encode(), **files})


def source_of(module: str) -> Path:
    """The file that a module of ours is in."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def _path(module: str, source: Path) -> str:
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if source.name == "__init__.py" else f"{folder}.py"
