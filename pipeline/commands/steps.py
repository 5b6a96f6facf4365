"""The commands that run a recipe's flow, wholly or up to one step."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import typer

from pipeline.commands.compare_engines import (
    compare,
    comparison_json,
    engines_named,
    reference,
    table,
)
from pipeline.commands.outputs import print_copies
from pipeline.commands.terminal import echo
from pipeline.commands.verdict import exit_with_verdict
from pipeline.flow import Flow, load_flow, release
from pipeline.measure.all_targets import hosts_of
from pipeline.recipe import read_recipe
from pipeline.release.bundle import check_replaceable
from pipeline.store.artifacts import Checkpoint
from pipeline.store.runner import DryRun, Runner
from pipeline.store.store import Store, default_root
from pipeline.store.written_files import check_not_users, put_files
from profiles.errors import ConfigError


def store_at(cache: Path | None, refresh: Collection[str] | None = None) -> Store:
    """The store in that folder, or in the usual one; `refresh` names stages to make again."""
    return Store(cache or default_root(), refresh or ())


def flow_of(recipe: Path, runner: Runner) -> Flow:
    """The flow of a recipe up to its ONNX model; asks no device that it can do without."""
    flow = load_flow(*read_recipe(recipe), recipe.parent, runner)
    return flow if flow.recipe.prune.has_target() else _asked(flow)


def flow_on_devices(recipe: Path, runner: Runner) -> Flow:
    """The flow of a recipe up to its end, once every target's machine was asked what it is."""
    flow = flow_of(recipe, runner)
    return flow if flow.hosts else _asked(flow)


def _asked(flow: Flow) -> Flow:
    return replace(flow, hosts=hosts_of(flow.targets))


def every_stage(flow: Flow) -> None:
    """Ask for the result of every stage of a run."""
    flow.exported()
    flow.exported_dense()
    flow.checked()
    for target in flow.targets:
        if flow.is_reachable(target):  # what is built there depends on what is there
            flow.built_dense(target)
            flow.built(target)


def check_refresh(refresh: Collection[str], stages: Collection[str]) -> None:
    """Raise ConfigError where a stage that is to be made again is none of a run's stages."""
    unknown = [name for name in refresh if name not in stages]
    if unknown:
        known = ", ".join(dict.fromkeys(stages))
        raise ConfigError(f"--refresh: {unknown[0]!r} is no stage of this run, which has: {known}")


def run_to_verdict(recipe: Path, out: Path | None, store: Store, as_json: bool) -> NoReturn:
    """The whole flow, a bundle, and its verdict."""
    flow = flow_on_devices(recipe, store)
    out = out or recipe.with_suffix(".bundle")
    check_replaceable(out)  # before the work, and once more after it
    _check_before(flow, store, every_stage)
    found = release(flow, store, out.resolve())
    exit_with_verdict(found, out, as_json, store.records)


def write_checkpoint(
    recipe: Path, out: Path, store: Store, step: Callable[[Flow], Checkpoint]
) -> None:
    """The network after a step of the flow: its plan and its weights."""
    check_not_users(out, ("model.safetensors", "plan.json"))
    flow = flow_of(recipe, store)
    _check_before(flow, store, step)
    checkpoint = step(flow)
    assert checkpoint.weights is not None
    assert checkpoint.plan is not None
    print_copies({"model.safetensors": checkpoint.weights, "plan.json": checkpoint.plan}, out)


def write_onnx(recipe: Path, out: Path, store: Store) -> None:
    """The simplified ONNX model, and the report on its export."""
    check_not_users(out, ("model.onnx", "export.json"))
    flow = flow_of(recipe, store)
    _check_before(flow, store, Flow.exported)
    model = flow.exported()
    print_copies({"model.onnx": model.model, "export.json": model.folder / "export.json"}, out)


def write_engines(recipe: Path, out: Path, store: Store) -> None:
    """The engine of every target."""
    check_not_users(out, ())
    flow = flow_on_devices(recipe, store)
    _check_before(flow, store, lambda flow: [flow.built(target) for target in flow.targets])
    for target in flow.targets:
        path = flow.built(target).path
        prefix = "" if len(flow.targets) == 1 else f"{target.name}-"
        print_copies({prefix + path.name: path}, out)


def write_comparison(recipe: Path, names: str, out: Path, store: Store, as_json: bool) -> None:
    """An engine of each of these runtimes at every precision, and the table that compares them."""
    check_not_users(out, ())
    asked = engines_named(names)
    flow = flow_of(recipe, store)
    _check_before(flow, store, lambda flow: flow.built_by(reference(flow)))
    rows = list(compare(flow, asked))
    flow.dense.check_unchanged()  # comparing has read the validation data
    built = {
        f"{row.engine}-{row.precision}{''.join(row.path.suffixes)}": row.path
        for row in rows
        if row.path
    }
    put_files(built, out)
    echo(comparison_json(rows) if as_json else table(rows))
    if not any(row.status == "verified" for row in rows):
        raise typer.Exit(6)


def _check_before(flow: Flow, store: Store, step: Callable[[Flow], object]) -> None:
    """Before the work, check that the step has the stages which the store is to make again."""
    if store.refresh:
        dry = DryRun(store.results, store.refresh)
        step(replace(flow, runner=dry))
        check_refresh(store.refresh, [record.name for record in dry.records])
