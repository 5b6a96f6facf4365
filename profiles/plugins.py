"""Plugins: one file in a folder, named as its file; nobody edits a list."""

import importlib
import importlib.util
import json
import pkgutil
from typing import Literal, TypeVar

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from profiles.errors import ConfigError
from profiles.spec import Spec, explain

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


S = TypeVar("S", bound=Spec)


AUTO: Literal["auto"] = "auto"


def choice(
    package: str, base: type[S], auto: bool = False
) -> tuple[BeforeValidator, PlainSerializer]:
    """Annotations for a field of type `base`: `"NAME"` or `{name = "NAME", field = value}`.

    With `auto` also `"auto"`, as it stands.
    """

    def parse(value: object) -> object:
        if isinstance(value, base) or (auto and value == AUTO):
            return value
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            raise ValueError("give a name, or a table with a name")
        fields = {key: field for key, field in options.items() if key != "name"}
        try:
            kind = plugin(package, options["name"], base)
            # In JSON mode, as the recipe itself is read.
            return kind.model_validate_json(json.dumps(fields, default=str), strict=True)
        except ValidationError as error:
            faults = explain(error, kind, options["name"])
            raise ValueError(faults.replace("\n", "; ")) from error
        except ConfigError as error:
            raise ValueError(f"{error}{', or auto' if auto else ''}") from error

    def dump(value: S | str) -> dict[str, object] | str:
        if isinstance(value, str):
            return value
        return {"name": name_of(value), **value.model_dump(mode="json")}

    return BeforeValidator(parse), PlainSerializer(dump)


def name_of(chosen: Spec) -> str:
    """The name of a plugin: its file's."""
    return type(chosen).__module__.rpartition(".")[2]
