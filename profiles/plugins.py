"""Plugins: one file in a folder, named as its file; nobody edits a list."""

import importlib
import importlib.util
import pkgutil
from typing import TypeVar

from profiles.errors import ConfigError

P = TypeVar("P")


def plugin_names(package: str) -> tuple[str, ...]:
    """The names of the plugins in `package`, sorted; none of them is imported."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders or [])))


def plugin(package: str, name: str, base: type[P]) -> type[P]:
    """The one subclass of `base` that the file `name` of `package` defines.

    Raises ConfigError for an unknown name, TypeError for a file without exactly one subclass.
    """
    if name not in plugin_names(package):
        kind = package.rpartition(".")[2]
        known = ", ".join(plugin_names(package))
        raise ConfigError(f"{name!r} is none of the {kind}: {known}")
    module = importlib.import_module(f"{package}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__file__} defines {len(found)} {base.__name__}s, not one")
    return found[0]
