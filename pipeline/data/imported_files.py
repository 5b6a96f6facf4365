"""What a user's Python file loads of the user's own: a change in it must make results anew."""

import ast
import os
import sys
from collections.abc import Collection, Iterator
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path

from pipeline.data.user_code import NOT_USER_CODE
from profiles.errors import ConfigError

INSTALLED = {"site-packages", "dist-packages"}
"""The folders into which packages are installed: their versions are in keys, not their files."""


def imported_files(path: Path) -> tuple[Path, ...]:
    """`path`, and every Python file of the user's that it imports, however deep; sorted.

    That is of its own folder, and of packages that are on the search path and are not installed
    into it, such as one that `pip install -e` has put there. Imports inside functions count. What
    is imported under a computed name cannot be read off: `check_imports` finds it, in the folder of
    `path`, once the code has run.
    """
    top = path.resolve()
    found: set[Path] = set()
    ahead = [top]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += _imports(file, top.parent)
    return tuple(sorted(found))


def code_files(path: Path) -> dict[str, Path]:
    """A Python file and every file of the user's it imports, by their places as seen from its own
    folder; as "" a file that imports none of them.
    """
    files = imported_files(path)
    if len(files) == 1:
        return {"": path}
    folder = path.resolve().parent
    return {os.path.relpath(file, folder): file for file in files}


def check_imports(path: Path, known: Collection[Path]) -> None:
    """Raise ConfigError where modules of the folder of `path` were loaded that are not `known`.

    `known` may hold folders, for all that is in them.
    """
    folder = path.resolve().parent
    trusted = {one.resolve() for one in known}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not name or not Path(name).is_absolute():  # torch.ops says "_ops.py", of no folder
            continue
        file = Path(name).resolve()
        if not file.is_relative_to(folder) or _is_library(file, folder):
            continue
        if not trusted & {file, *file.parents}:
            raise ConfigError(
                f"{path}: loads {file} under a computed name, so a change in that file would go "
                "unseen: import it by its name, or name it in task.inputs"
            )


def _is_library(file: Path, folder: Path) -> bool:
    """Whether it is of an environment that lies inside the folder."""
    inside = file.relative_to(folder).parts
    libraries = tuple(str(Path(one).resolve()) for one in NOT_USER_CODE if one != "<")
    return str(file).startswith(libraries) or any(part[0] == "." for part in inside)


def _imports(file: Path, folder: Path) -> Iterator[Path]:
    """The files of the user's that one file imports; `folder` is that of the first one."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # running it will say what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                base = _place_of(parts[0], folder)
                yield from _files_of(base, parts) if base else ()
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            base = file.parents[node.level - 1] if node.level else _place_of(parts[0], folder)
            for alias in node.names:
                yield from _files_of(base, [*parts, alias.name]) if base else ()


def _place_of(name: str, folder: Path) -> Path | None:
    """The folder in which a top-level module is found: `folder` is the last place to look.

    None for a module of Python's, of an installed package or of slimgate.
    """
    if name in sys.stdlib_module_names:
        return None
    elsewhere = [place for place in sys.path if Path(place or ".").resolve() != folder]
    spec = PathFinder.find_spec(name, elsewhere)
    if spec is None and not any(_files_of(folder, [name])):
        spec = _editable_spec(name)
    if spec is None:
        return folder
    file = next(iter([*(spec.submodule_search_locations or ()), spec.origin or ""]))
    path = Path(file).resolve()
    is_ours = f"{path}{os.sep}".startswith(NOT_USER_CODE)
    is_users = path.suffix in ("", ".py") and not is_ours and not INSTALLED & {*path.parts}
    return path.parent if is_users else None


def _editable_spec(name: str) -> ModuleSpec | None:
    """What the finders say that installers add for packages whose files stay where they are."""
    for finder in sys.meta_path:
        if finder not in (BuiltinImporter, FrozenImporter, PathFinder):
            spec = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def _files_of(base: Path, parts: list[str]) -> Iterator[Path]:
    """The packages on the way to a module, and the module; `parts` may end in a name of it."""
    place = base
    for part in parts:
        place = place / part
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file.resolve()
