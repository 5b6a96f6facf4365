"""The rooms of the code and the imports between them: `python tests/helpers/rooms.py [CHECKOUT]`.

A room is a folder of a layer, with the folders in it: `pipeline/prune`. A file right inside a layer
(`pipeline/flow.py`) is a room of its own.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

LAYERS = ("profiles", "exporters", "pipeline")
ROOT = Path(__file__).parents[2]
Arrows = Mapping[str, frozenset[str]]
"""What each file or room imports from, by its dotted name."""


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


def files_of(root: Path) -> dict[str, Path]:
    """Every file of the three layers, by its dotted name."""
    found = {}
    for path in (path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def file_arrows(root: Path) -> Arrows:
    """Between files; a file that is only a package's docstring is none."""
    files = files_of(root)
    return {
        name: frozenset(other for other in imports(path) if other in files and other != name)
        for name, path in files.items()
    }


def room_of(name: str) -> str:
    """The first two parts of a dotted name: a folder of a layer, or a file right inside one."""
    return ".".join(name.split(".")[:2])


def room_arrows(root: Path) -> Arrows:
    """Between rooms."""
    files = file_arrows(root)
    found: dict[str, set[str]] = {}
    for name, others in files.items():
        room = room_of(name)
        found.setdefault(room, set()).update(room_of(other) for other in others)
    return {room: frozenset(others - {room}) for room, others in found.items()}


def levels(arrows: Arrows) -> list[frozenset[str]]:
    """The lowest first: each imports from those before it alone. What is in a circle, or imports
    from one, is in none."""
    placed: set[str] = set()
    found = []
    while ready := frozenset(n for n, to in arrows.items() if n not in placed and to <= placed):
        found.append(ready)
        placed |= ready
    return found


def circles(arrows: Arrows) -> list[frozenset[str]]:
    """The sets of names that import one another, however far round."""
    reach = {name: _reached(name, arrows) for name in arrows}
    found = {frozenset({n} | {o for o in reach[n] if n in reach[o]}) for n in arrows}
    return sorted((one for one in found if len(one) > 1), key=sorted)


def _reached(name: str, arrows: Arrows) -> frozenset[str]:
    found: set[str] = set()
    ahead = [name]
    while ahead:
        more = arrows[ahead.pop()] - found
        found |= more
        ahead += more
    return frozenset(found)


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for what, arrows in (("files", file_arrows(root)), ("rooms", room_arrows(root))):
        count = sum(map(len, arrows.values()))
        print(f"{len(arrows)} {what}, {count} arrows, {len(levels(arrows))} levels")
        for circle in circles(arrows):
            print(f"  circle: {', '.join(sorted(circle))}")
    beside = Counter(path.parent.relative_to(root).as_posix() for path in files_of(root).values())
    folder, most = beside.most_common(1)[0]
    print(f"{len(beside)} folders, {most} files side by side in {folder}")


if __name__ == "__main__":
    main()
