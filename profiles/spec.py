"""Spec: the base of everything a file says, and the reader of TOML and JSON files."""

import difflib
import json
import tomllib
from pathlib import Path
from types import UnionType
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from profiles.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen record that rejects unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_spec(path: Path, kind: type[S]) -> S:
    """Read a `.toml` or `.json` file as `kind`.

    Raises ConfigError naming the file and each wrong key: unreadable file, bad syntax,
    unknown or missing keys, wrong types, values out of range.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, more than a configuration may have (1 MiB)")
    try:
        text = raw.decode("utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        # JSON mode is strict about numbers and strings, yet takes lists as tuples.
        return kind.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, str(path))) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def explain(error: ValidationError, kind: type[BaseModel], where: str) -> str:
    """One line for each wrong key: where, what was found, what is allowed."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            names = sorted(_keys(kind, item["loc"][:-1]))
            near = difflib.get_close_matches(str(item["loc"][-1]), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(names)}"
            lines.append(f"{where}: {key}: unknown key; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{where}: {key}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
            lines.append(f"{where}: {key or 'file'}: {message}{found}")
    return "\n".join(lines)


def _keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys allowed in the table at `location`."""
    kinds = {kind}
    for part in location:
        fields = [k.model_fields[str(part)] for k in kinds if str(part) in k.model_fields]
        found = {model for field in fields for model in _models(field.annotation)}
        kinds = found or kinds
    return {name for k in kinds for name in k.model_fields}


def _models(annotation: object) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    is_union = isinstance(annotation, UnionType) or bool(get_args(annotation))
    return {m for a in get_args(annotation) for m in _models(a)} if is_union else set()
