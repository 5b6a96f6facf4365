"""The command line: a verb is a function; what a verb needs is imported inside it."""

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands import devices
from profiles.errors import ConfigError, SlimgateError

if TYPE_CHECKING:
    from pipeline.flow import Flow
    from pipeline.release.bundle import Release
    from pipeline.store.artifacts import Checkpoint
    from pipeline.store.runner import Runner
    from pipeline.store.store import Store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Prune a trained vision network, build its edge engine, and release it only if it "
    "meets the device's budget.\n\nExit codes: 0 pass, 1 the gate said no, 2 usage or "
    "configuration, 3 something is not installed, 4 device unreachable, 5 a stage failed, "
    "6 inconclusive evidence, 7 integrity or security refusal, 130 SIGINT, 143 SIGTERM.",
)

app.add_typer(devices.app, name="devices")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a .toml file.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CacheDir = Annotated[
    Path | None, typer.Option("--cache", help="The store; $SLIMGATE_CACHE or the user's cache.")
]
OutDir = Annotated[Path, typer.Option("--out", help="Where the result goes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of every error.")]


class Stopped(BaseException):
    """SIGINT or SIGTERM, raised so that every `finally` on the way out runs."""


@app.callback()
def options(debug: Debug = False) -> None:
    """Options of every command."""
    # Threads of torch that wait for one another spin; on a shared CPU that made training steps
    # five times slower. Read when torch is loaded, so not later than here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if debug:
        os.environ["SLIMGATE_DEBUG"] = "1"


@app.command()
def demo(
    out: OutDir = Path("slimgate-demo"), cache: CacheDir = None, as_json: Json = False
) -> None:
    """Train a small network on real digits, then run the whole flow on it."""
    from pipeline.commands.demo import write_demo

    store = _store(cache)
    recipe = write_demo(out, store)
    _release(recipe, out / "bundle", store, as_json)


@app.command()
def run(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option("--out", help="The bundle's folder.")] = None,
    cache: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Run a recipe from the trained network to a judged bundle."""
    _release(recipe, out, _store(cache), as_json)


@app.command()
def plan(recipe: RecipePath, cache: CacheDir = None, as_json: Json = False) -> None:
    """Show what a run would do, and what is in the store already."""
    from pipeline.store.runner import DryRun

    planned = DryRun(_store(cache).has)
    flow = _flow(recipe, planned, ask=True)
    flow.exported()
    flow.exported_dense()
    for target in flow.targets:
        if flow.is_reachable(target):  # what is built there depends on what is there
            flow.built_dense(target)
            flow.built(target)
    stages = list(dict.fromkeys(planned.records))  # targets share what does not depend on them
    if as_json:
        rows = [{"name": r.name, "key": r.key, "cached": r.cached} for r in stages]
        _print(
            json.dumps({"schema_version": 1, "stages": rows, "doubts": flow.warnings()}, indent=1)
        )
        return
    width = max(len(row.name) for row in stages) + 2
    for row in stages:
        _print(f"{'cached' if row.cached else 'to run':8}{row.name:{width}}{row.key[:16]}")
    _print("always  measure, judge, bundle")
    for line in flow.warnings():
        _print(line)


@app.command()
def prune(recipe: RecipePath, out: OutDir, cache: CacheDir = None) -> None:
    """Prune and repair; write plan.json and model.safetensors to --out."""
    _checkpoint(recipe, out, cache, lambda flow: flow.recovered())


@app.command()
def finetune(recipe: RecipePath, out: OutDir, cache: CacheDir = None) -> None:
    """Prune, repair and fine-tune; write plan.json and model.safetensors to --out."""
    _checkpoint(recipe, out, cache, lambda flow: flow.finetuned())


@app.command()
def export(recipe: RecipePath, out: OutDir, cache: CacheDir = None) -> None:
    """Everything up to the simplified ONNX model; write it to --out."""
    _check_folder(out)
    model = _flow(recipe, _store(cache)).exported()
    _copy({"model.onnx": model.model, "export.json": model.folder / "export.json"}, out)


@app.command()
def build(
    recipe: RecipePath,
    out: OutDir,
    cache: CacheDir = None,
    engines: Annotated[
        str | None,
        typer.Option(help="all, or names: build with each at every precision, and compare."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Everything up to the engine; write it to --out. With --engines, compare runtimes."""
    _check_folder(out)
    if engines is not None:
        _compare(recipe, engines, out, cache, as_json)
        return
    flow = _flow(recipe, _store(cache), ask=True)
    for target in flow.targets:
        path = flow.built(target).path
        prefix = "" if len(flow.targets) == 1 else f"{target.name}-"
        _copy({prefix + path.name: path}, out)


@app.command()
def measure(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle's folder.")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="How small a difference this machine resolves.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle's engines again where they belong, and judge. Needs no torch."""
    from pipeline.measure.sessions import Measure

    if self_test:
        from pipeline.commands import self_test as selftest

        found = selftest.self_test(Measure())
        _print(selftest.self_test_json(found) if as_json else selftest.text(found))
        raise typer.Exit(0 if found.usable else 6)
    if bundle is None:
        raise ConfigError("measure what? give a bundle's folder, or --self-test")
    from pipeline.release.remeasure import remeasure

    _verdict(remeasure(bundle, Measure()), bundle, as_json, None)


@app.command()
def gate(
    bundle: BundlePath,
    last: Annotated[
        Path | None, typer.Option("--against", help="The last released bundle: nothing got worse?")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The part by which a figure may be over that of --against.")
    ] = 0.02,
    top1_drop: Annotated[
        float, typer.Option(help="What the metric may lose beside that of --against.")
    ] = 0.01,
    waiver: Annotated[
        Path | None, typer.Option("--accept-waiver", help="Limits that somebody answers for.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write a summary here.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a bundle anew from its raw samples. Needs no torch and no runtime."""
    from datetime import UTC, datetime

    from pipeline.release.bundle import judge_bundle
    from pipeline.release.regression import against
    from pipeline.report.junit import junit as junit_xml
    from pipeline.report.text import summary
    from profiles.waiver import read_waivers

    waivers = read_waivers(waiver) if waiver else ()
    found = judge_bundle(bundle, waivers, datetime.now(UTC).date())
    if last:
        found = against(found, judge_bundle(last), tolerance, top1_drop)
    for path, page in ((junit, junit_xml(found)), (markdown, summary(found) + "\n")):
        if path:
            _write_text(path, page)
    _verdict(found, bundle, as_json, None)


@app.command("list")
def list_() -> None:
    """Name the criteria, allocators, recoveries, engines and devices."""
    from profiles.device import device_names
    from profiles.plugins import plugin_names

    kinds = {
        "criteria": "pipeline.prune.criteria",
        "allocators": "pipeline.prune.allocators",
        "recoveries": "pipeline.repair.recoveries",
        "engines": "exporters.engines",
    }
    for kind, package in kinds.items():
        _print(f"{kind + ':':12} {', '.join(plugin_names(package))}")
    _print(f"{'devices:':12} {', '.join(device_names())}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what is installed and really runs on this machine."""
    from pipeline.commands.doctor import examine

    findings = examine()
    if as_json:
        rows = [
            {"name": f.name, "ok": f.ok, "needed": f.needed, "found": f.found} for f in findings
        ]
        _print(json.dumps({"schema_version": 1, "findings": rows}, indent=1))
    else:
        for finding in findings:
            mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
            _print(f"{mark:8}{finding.name:18}{finding.found}")
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(3)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.toml"),
) -> None:
    """Write a commented recipe to start from."""
    from importlib import resources

    text = (resources.files("pipeline.commands") / "example" / "template.toml").read_text()
    try:
        with path.open("x") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror})") from error
    _print(f"wrote {path}; edit it, then: slimgate run {path}")


def main() -> None:
    """The console script: every SlimgateError becomes one message and its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("slimgate").setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except SlimgateError as error:
        if os.environ.get("SLIMGATE_DEBUG"):
            raise
        print(f"slimgate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        print("slimgate: stopped; finished stages are kept", file=sys.stderr)
        sys.exit(128 + stopped.args[0])


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


def _store(cache: Path | None) -> "Store":
    from pipeline.store.store import Store, default_root

    return Store(cache or default_root())


def _flow(path: Path, runner: "Runner", ask: bool = False) -> "Flow":
    """The flow of the recipe; where engines are to be built or measured, with `ask`."""
    from dataclasses import replace

    from pipeline.flow import load_flow
    from pipeline.measure.all_targets import hosts_of
    from pipeline.recipe import read_recipe

    flow = load_flow(*read_recipe(path), path.parent, runner)
    return replace(flow, hosts=hosts_of(flow.targets)) if ask else flow


def _release(recipe: Path, out: Path | None, store: "Store", as_json: bool) -> None:
    from pipeline.flow import release
    from pipeline.store.manifest import MANIFEST

    flow = _flow(recipe, store, ask=True)
    out = out or recipe.with_suffix(".bundle")
    if out.exists() and not (out / MANIFEST).is_file():  # before the work, not after it
        raise ConfigError(f"{out}: exists and is not a bundle; choose another --out")
    found = release(flow, store, out.resolve())
    _verdict(found, out, as_json, store)


def _compare(recipe: Path, names: str, out: Path, cache: Path | None, as_json: bool) -> None:
    from pipeline.commands.compare_engines import compare, comparison_json, engines_named, table

    asked = engines_named(names)
    rows = list(compare(_flow(recipe, _store(cache)), asked))
    built = {
        f"{row.engine}-{row.precision}{''.join(row.path.suffixes)}": row.path
        for row in rows
        if row.path
    }
    _write(built, out)
    _print(comparison_json(rows) if as_json else table(rows))
    if not any(row.status == "verified" for row in rows):
        raise typer.Exit(6)


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror})") from error


def _verdict(found: "Release", bundle: Path, as_json: bool, store: "Store | None") -> None:
    """Print the verdict and leave with its exit code."""
    from pipeline.release.bundle import verdict_json
    from pipeline.report.text import text
    from profiles.gate import EXIT_CODES

    if as_json:
        _print(verdict_json(found, store.records if store else [], bundle))
    else:
        _print(f"{text(found)}\nbundle: {bundle}")
    raise typer.Exit(EXIT_CODES[found.status])


def _checkpoint(
    recipe: Path, out: Path, cache: Path | None, step: "Callable[[Flow], Checkpoint]"
) -> None:
    _check_folder(out)
    checkpoint = step(_flow(recipe, _store(cache)))
    assert checkpoint.weights is not None
    assert checkpoint.plan is not None
    _copy({"model.safetensors": checkpoint.weights, "plan.json": checkpoint.plan}, out)


def _check_folder(out: Path) -> None:
    """Refuse an --out that can never be a folder, before the work."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: exists and is not a folder; choose another --out")


def _copy(files: dict[str, Path], out: Path) -> None:
    """Write the files and print where they are."""
    _write(files, out)
    for name in files:
        _print(str(out / name))


def _write(files: dict[str, Path], out: Path) -> None:
    from pipeline.store.files import disk_faults

    fresh = {name: out / f".{name}.new" for name in files}
    with disk_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            for name, path in files.items():
                shutil.copyfile(path, fresh[name])
            for name, path in fresh.items():
                path.replace(out / name)
        finally:
            for path in fresh.values():
                path.unlink(missing_ok=True)


def _print(text: str) -> None:
    print(text)
