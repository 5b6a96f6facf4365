"""`slimgate cache`: what is in the store, whether it is whole, and how to clear it."""

import json
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import CacheDir, Json
from pipeline.commands.terminal import echo
from profiles.errors import ConfigError, IntegrityError, StageError

if TYPE_CHECKING:
    from pipeline.store.results import Results, StoredResult

app = typer.Typer(no_args_is_help=True, help="List, check and clear what is in the store.")

MIB = 2**20
SHOWN_DIGITS = 16
"""The digits of a key that are printed, and enough of them for --key."""


@app.command("list")
def list_(cache: CacheDir = None, as_json: Json = False) -> None:
    """List every result: its key, its stage, its size, when it was made and last used."""
    results = _results(cache)
    stored = results.all()
    if as_json:
        _print_json(results=[_as_json(one) for one in stored])
    elif stored:
        from pipeline.report.text import aligned

        head = ("key", "stage", "MiB", "made", "last used")
        echo(aligned([head, *(_cells(one) for one in stored)]))
    else:
        echo(f"{results.root}: no results")


@app.command()
def size(cache: CacheDir = None, as_json: Json = False) -> None:
    """Print how much the store holds."""
    results = _results(cache)
    stored, rest = results.all(), results.unfinished()
    finished, unfinished = (sum(one.bytes for one in some) for some in (stored, rest))
    if as_json:
        _print_json(results=len(stored), result_bytes=finished, unfinished_bytes=unfinished)
    else:
        echo(
            f"{results.root}: {len(stored)} results, {finished / MIB:.1f} MiB; "
            f"of stages that were cut short, {unfinished / MIB:.1f} MiB"
        )


@app.command()
def verify(cache: CacheDir = None, as_json: Json = False) -> None:
    """Compare every result with its manifest. Exit codes: 0 all whole, 7 one is damaged, 5 one
    cannot be read."""
    results = _results(cache)
    examined = [(one, results.examine(one.key)) for one in results.all()]
    found = [(one, state) for one, state in examined if state.state != "absent"]
    if as_json:
        rows = [{"key": one.key, "stage": one.stage, **asdict(state)} for one, state in found]
        _print_json(results=rows)
    bad = [(one, state) for one, state in found if state.state != "whole"]
    if not bad and not as_json:
        echo(f"{results.root}: {len(found)} results, all whole")
    lines = [f"{s.state}: {one.key[:SHOWN_DIGITS]} {one.stage}: {s.reason}" for one, s in bad]
    advice = "a run makes a damaged result again when it needs it"
    if any(state.state == "damaged" for _, state in bad):
        raise IntegrityError("\n".join([*lines, advice]))
    if bad:
        raise StageError("\n".join(lines))


@app.command()
def clear(
    cache: CacheDir = None,
    everything: Annotated[bool, typer.Option("--all", help="Clear everything.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Clear what was not used for so many days."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Clear one result; its key, or the digits of it that are printed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove results, and what stages that were cut short left; nothing that another run uses."""
    if sum((everything, older_than is not None, key is not None)) != 1:
        raise ConfigError("cache clear: give one of --all, --older-than DAYS and --key KEY")
    from pipeline.store.store import Store

    results = _results(cache)
    stored = {one.key: one for one in [*results.unfinished(), *results.all()]}.values()
    if key is not None:
        chosen = [_with_key(stored, key)]
    else:
        oldest = datetime.now(UTC) - timedelta(days=older_than or 0)
        chosen = [one for one in stored if everything or one.used < oldest]
    store = Store(results.root) if chosen else None
    removed = [one for one in chosen if store and store.remove(one.key)]
    kept = [one for one in chosen if one not in removed]
    if as_json:
        _print_json(removed=[one.key for one in removed], in_use=[one.key for one in kept])
        return
    for one in kept:
        echo(f"in use, kept: {one.key[:SHOWN_DIGITS]} {one.stage}")
    freed = sum(one.bytes for one in removed)
    echo(f"{results.root}: removed {len(removed)}, {freed / MIB:.1f} MiB")


def _results(cache: Path | None) -> "Results":
    """The results of a store; one that there is not yet has none."""
    from pipeline.store.results import Results
    from pipeline.store.store import default_root

    return Results(cache or default_root())


def _with_key(stored: "Collection[StoredResult]", key: str) -> "StoredResult":
    found = [one for one in stored if len(key) >= SHOWN_DIGITS and one.key.startswith(key)]
    if len(found) != 1:
        raise ConfigError(
            f"--key: {key!r} is no key of the store; give one as `slimgate cache list` prints it"
        )
    return found[0]


def _cells(one: "StoredResult") -> tuple[str, ...]:
    made, used = (f"{time.astimezone():%Y-%m-%d %H:%M}" for time in (one.made, one.used))
    return one.key[:SHOWN_DIGITS], one.stage or "unknown", f"{one.bytes / MIB:.2f}", made, used


def _as_json(one: "StoredResult") -> dict[str, object]:
    return {**asdict(one), "made": one.made.isoformat(), "used": one.used.isoformat()}


def _print_json(**fields: object) -> None:
    echo(json.dumps({"schema_version": 1, **fields}, indent=1))
