"""The commands that run a recipe's flow, wholly or up to one step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import typer

from pipeline.commands.compare_engines import compare, comparison_json, engines_named, table
from pipeline.commands.outputs import print_copies
from pipeline.commands.verdict import exit_with_verdict
from pipeline.flow import Flow, load_flow, release
from pipeline.measure.all_targets import hosts_of
from pipeline.recipe import read_recipe
from pipeline.release.bundle import check_replaceable
from pipeline.store.artifacts import Checkpoint
from pipeline.store.runner import Runner
from pipeline.store.store import Store, default_root
from pipeline.store.written_files import check_not_users, put_files


def store_at(cache: Path | None) -> Store:
    """The store in that folder, or in the usual one."""
    return Store(cache or default_root())


def flow_of(recipe: Path, runner: Runner) -> Flow:
    """The flow of a recipe up to its ONNX model; asks no device."""
    return load_flow(*read_recipe(recipe), recipe.parent, runner)


def flow_on_devices(recipe: Path, runner: Runner) -> Flow:
    """The flow of a recipe up to its end, once every target's machine was asked what it is."""
    flow = flow_of(recipe, runner)
    return replace(flow, hosts=hosts_of(flow.targets))


def run_to_verdict(recipe: Path, out: Path | None, store: Store, as_json: bool) -> NoReturn:
    """The whole flow, a bundle, and its verdict."""
    flow = flow_on_devices(recipe, store)
    out = out or recipe.with_suffix(".bundle")
    check_replaceable(out)  # before the work, and once more after it
    found = release(flow, store, out.resolve())
    exit_with_verdict(found, out, as_json, store.records)


def write_checkpoint(
    recipe: Path, out: Path, cache: Path | None, step: Callable[[Flow], Checkpoint]
) -> None:
    """The network after a step of the flow: its plan and its weights."""
    check_not_users(out, ("model.safetensors", "plan.json"))
    checkpoint = step(flow_of(recipe, store_at(cache)))
    assert checkpoint.weights is not None
    assert checkpoint.plan is not None
    print_copies({"model.safetensors": checkpoint.weights, "plan.json": checkpoint.plan}, out)


def write_onnx(recipe: Path, out: Path, cache: Path | None) -> None:
    """The simplified ONNX model, and the report on its export."""
    check_not_users(out, ("model.onnx", "export.json"))
    model = flow_of(recipe, store_at(cache)).exported()
    print_copies({"model.onnx": model.model, "export.json": model.folder / "export.json"}, out)


def write_engines(recipe: Path, out: Path, cache: Path | None) -> None:
    """The engine of every target."""
    check_not_users(out, ())
    flow = flow_on_devices(recipe, store_at(cache))
    for target in flow.targets:
        path = flow.built(target).path
        prefix = "" if len(flow.targets) == 1 else f"{target.name}-"
        print_copies({prefix + path.name: path}, out)


def write_comparison(
    recipe: Path, names: str, out: Path, cache: Path | None, as_json: bool
) -> None:
    """An engine of each of these runtimes at every precision, and the table that compares them."""
    check_not_users(out, ())
    asked = engines_named(names)
    rows = list(compare(flow_of(recipe, store_at(cache)), asked))
    built = {
        f"{row.engine}-{row.precision}{''.join(row.path.suffixes)}": row.path
        for row in rows
        if row.path
    }
    put_files(built, out)
    typer.echo(comparison_json(rows) if as_json else table(rows))
    if not any(row.status == "verified" for row in rows):
        raise typer.Exit(6)
