"""What a key was made of, kept beside the result: why a stage runs again can be told from it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import JsonValue

from profiles.errors import ConfigError
from profiles.spec import Spec, read_spec

KEY_RECORD = "KEY.json"

Parts = Mapping[str, JsonValue]


class KeyRecord(Spec):
    """The stage that a result is of, and the parts of its key."""

    stage: str
    """The name of the stage in the flow that made it."""
    depends_on: dict[str, JsonValue]
    """The parts of the key."""
    task: dict[str, JsonValue] | None
    """The parts of the task's key, for a stage that begins with the task."""


def read_key_record(result: Path) -> KeyRecord | None:
    """The record in a result's folder; None for a result of before there were any, or damaged."""
    try:
        return read_spec(result / KEY_RECORD, KeyRecord)
    except ConfigError:
        return None


def flat(parts: Parts) -> dict[str, str]:
    """The parts as text, by dotted names."""
    found: dict[str, str] = {}
    for name, value in parts.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": text for inner, text in flat(value).items()}
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def changes(parts: Parts, stored: Iterable[Parts]) -> dict[str, str | None]:
    """What differs from the nearest of some stored ones: its values, None for what it lacks.

    Empty where there is no other, or none that differs.
    """
    now = flat(parts)
    differing = []
    for one in stored:
        then = flat(one)
        names = sorted(now.keys() | then.keys())
        differing.append(
            {name: then.get(name) for name in names if now.get(name) != then.get(name)}
        )
    return min(differing, key=len, default={})
