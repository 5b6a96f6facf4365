"""Spec: the base of everything a file says, and the reader of TOML and JSON files."""

import difflib
import json
import tomllib
from collections import Counter
from pathlib import Path
from types import UnionType
from typing import Annotated, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Tag,
    ValidationError,
)

from profiles.errors import ConfigError, reading_error

MAX_CONFIG_BYTES = 1 << 20
MAX_FOUND = 80
"""Characters of a wrong value that a message repeats."""
MAX_WRONG = 20
"""Wrong keys that a message names."""
MANY_WRONG = 1000
MAX_TEXT = 500

S = TypeVar("S", bound="Spec")


def _no_percentage(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 2 <= value < 100:
        raise ValueError(f"is a fraction between 0 and 1: did you mean {value / 100:g}?")
    return value


Fraction = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_no_percentage)]
"""More than none, less than all."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A file right inside a folder, and nothing outside of it."""


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])


PrintableText = Annotated[str, AfterValidator(_plain)]
"""What a machine says of itself: it reaches terminals and pages, so it is short and printable."""


class Spec(BaseModel):
    """A frozen record that rejects unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_spec(path: Path, kind: type[S]) -> S:
    """Read a `.toml` or `.json` file as `kind`.

    Raises ConfigError naming the file and each wrong key: unreadable file, bad syntax,
    unknown or missing keys, wrong types, values out of range.
    """
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        data = read_json(text) if path.suffix == ".json" else tomllib.loads(text)
        # JSON mode is strict about numbers and strings, yet takes lists as tuples.
        return kind.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, str(path), data)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file. Raises ConfigError where it is larger, not UTF-8 or cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(most_bytes + 1)
    except OSError as error:
        raise reading_error(path, error) from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if len(raw) > most_bytes:
        raise ConfigError(f"{path}: larger than it may be ({most_bytes >> 20} MiB)")
    try:
        return raw.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, save it as UTF-8 ({error})") from error


def read_json(text: str) -> object:
    """JSON in which no key comes twice: of two limits the laxer could be the one that counts."""

    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        counts = Counter(name for name, _ in pairs)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: given twice")
        return dict(pairs)

    data: object = json.loads(text, object_pairs_hook=table)
    return data


def explain(error: ValidationError, kind: type[BaseModel], where: str, data: object = None) -> str:
    """One line for each wrong key of `data`: where, what was found, what is allowed.

    Of many only the first are told.
    """
    more = error.error_count() - MAX_WRONG
    if more > MANY_WRONG:  # a device may send millions, and naming them takes a KiB each
        return f"{where}: {error.error_count()} wrong values"
    items = error.errors(include_url=False)[:MAX_WRONG]
    lines = []
    for item in items:
        place = item["loc"]
        if any(len(o["loc"]) > len(place) and o["loc"][: len(place)] == place for o in items):
            continue  # what is wrong with a table as a whole comes of the keys in it
        keys, names = _keys(kind, _as_written(place, data))
        start = ": ".join([where, *([".".join(keys)] if keys else [])])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(names)}"
            lines.append(f"{start}: unknown key; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{start}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            value = repr(item["input"])
            value = value if len(value) <= MAX_FOUND else f"{value[: MAX_FOUND - 3]}..."
            found = "" if isinstance(item["input"], dict) else f" (found {value})"
            lines.append(f"{start}: {message}{found}")
    return "\n".join([*lines, f"{where}: and {more} more"] if more > 0 else lines)


def _as_written(location: tuple[int | str, ...], data: object) -> tuple[int | str, ...]:
    """The location without the index of a table that stands where several may."""
    found: list[int | str] = []
    for part in location:
        if isinstance(part, int) and isinstance(data, dict):
            continue
        found.append(part)
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    return tuple(found)


def _keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys of `location` as the file has them, and those allowed beside the last one."""
    kinds, inside, tags = {kind}, {kind}, dict[str, type[BaseModel]]()
    keys = []
    for part in location:
        if part in tags:  # pydantic's name for the kind of a table, which no file has
            inside, tags = {tags[str(part)]}, {}
            continue
        kinds = inside
        keys.append(str(part))
        fields = [k.model_fields[str(part)] for k in kinds if str(part) in k.model_fields]
        inside = {model for field in fields for model in _models(field.annotation)} or kinds
        tags = {tag: model for field in fields for tag, model in _tagged(field.annotation)}
    return keys, sorted({name for k in kinds for name in k.model_fields})


def _models(annotation: object) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    is_union = isinstance(annotation, UnionType) or bool(get_args(annotation))
    return {m for a in get_args(annotation) for m in _models(a)} if is_union else set()


def _tagged(annotation: object) -> list[tuple[str, type[BaseModel]]]:
    """The kinds of table that a union tells apart, by their tags."""
    parts = [get_args(a) for a in get_args(annotation) if get_origin(a) is Annotated]
    return [(m.tag, model) for model, *meta in parts for m in meta if isinstance(m, Tag)]
