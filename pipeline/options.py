"""A recipe's choice of a plugin: its name, or a table with the name and the plugin's own fields."""

import json
from typing import Literal, TypeVar

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from profiles.errors import ConfigError
from profiles.plugins import plugin
from profiles.spec import Spec, explain

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
