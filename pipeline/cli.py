"""The command line: a verb is a function; what it does is in `commands/`, imported inside it."""

import errno
import io
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Protocol, TextIO, runtime_checkable

import typer

from pipeline.commands import cache as store_commands
from pipeline.commands import devices
from pipeline.commands.gate import GateOptions, gate
from pipeline.commands.options import (
    CacheDir,
    Json,
    OutDir,
    RecipePath,
    Refresh,
    command_with,
)
from pipeline.commands.terminal import echo, message_handler, open_standard_streams
from profiles.errors import ConfigError, SlimgateError, StageError
from profiles.printable import printable

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
app.add_typer(store_commands.app, name="cache")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")]


@runtime_checkable
class UsageError(Protocol):
    """What typer raises for a wrong command line; it gives the class no public name."""

    exit_code: int

    def show(self, file: TextIO) -> None: ...


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
    from pipeline.commands.steps import run_to_verdict, store_at

    store = store_at(cache)
    run_to_verdict(write_demo(out, store), out / "bundle", store, as_json)


@app.command()
def run(
    recipe: RecipePath,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The bundle's folder; beside the recipe when left out."),
    ] = None,
    cache: CacheDir = None,
    refresh: Refresh = None,
    as_json: Json = False,
) -> None:
    """Run a recipe from the trained network to a judged bundle."""
    from pipeline.commands.steps import run_to_verdict, store_at

    run_to_verdict(recipe, out, store_at(cache, refresh), as_json)


@app.command()
def plan(
    recipe: RecipePath,
    cache: CacheDir = None,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="Show what each result depends on, and what of it has changed."
        ),
    ] = False,
    refresh: Refresh = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do, and what is stored already."""
    from pipeline.commands.plan import plan_json, plan_of, plan_text

    found = plan_of(recipe, cache, refresh or ())
    echo(plan_json(found) if as_json else plan_text(found, keys))


@app.command()
def advise(recipe: RecipePath, cache: CacheDir = None, as_json: Json = False) -> None:
    """Say where a network's time goes on its targets, and what pruning could make of it."""
    from pipeline.commands.advise import advice_json, advice_text
    from pipeline.commands.advise import advise as advise_on
    from pipeline.commands.steps import flow_on_devices, store_at

    found = advise_on(flow_on_devices(recipe, store_at(cache)))
    echo(advice_json(found) if as_json else advice_text(found))


@app.command()
def prune(recipe: RecipePath, out: OutDir, cache: CacheDir = None, refresh: Refresh = None) -> None:
    """Prune and repair; write plan.json and model.safetensors to --out."""
    from pipeline.commands.steps import store_at, write_checkpoint

    write_checkpoint(recipe, out, store_at(cache, refresh), lambda flow: flow.recovered())


@app.command()
def finetune(
    recipe: RecipePath, out: OutDir, cache: CacheDir = None, refresh: Refresh = None
) -> None:
    """Prune, repair and fine-tune; write plan.json and model.safetensors to --out."""
    from pipeline.commands.steps import store_at, write_checkpoint

    write_checkpoint(recipe, out, store_at(cache, refresh), lambda flow: flow.finetuned())


@app.command()
def export(
    recipe: RecipePath, out: OutDir, cache: CacheDir = None, refresh: Refresh = None
) -> None:
    """Run up to the simplified ONNX model; write it to --out."""
    from pipeline.commands.steps import store_at, write_onnx

    write_onnx(recipe, out, store_at(cache, refresh))


@app.command()
def build(
    recipe: RecipePath,
    out: OutDir,
    cache: CacheDir = None,
    refresh: Refresh = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help="Compare these runtimes at every precision instead of building for the target: "
            "all, or names from `slimgate list` with commas between."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run up to the engine; write it to --out. With --engines, compare runtimes."""
    from pipeline.commands.steps import store_at, write_comparison, write_engines

    store = store_at(cache, refresh)
    if engines is None:
        write_engines(recipe, out, store)
    else:
        write_comparison(recipe, engines, out, store, as_json)


@app.command()
def measure(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle's folder.")] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Measure how small a difference this machine resolves, and no more."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle's engines again on their devices, and judge. Needs no torch."""
    if bundle is None and not self_test:
        raise ConfigError(
            "measure: BUNDLE is missing; give the bundle's folder, as in "
            "`slimgate measure recipe.bundle`, or `slimgate measure --self-test`"
        )
    from pipeline.measure.sessions import Measure

    if bundle is None or self_test:
        from pipeline.commands import self_test as selftest

        found = selftest.self_test(Measure())
        echo(selftest.self_test_json(found) if as_json else selftest.text(found))
        raise typer.Exit(0 if found.usable else 6)
    from pipeline.commands.verdict import exit_with_verdict
    from pipeline.release.remeasure import remeasure

    exit_with_verdict(remeasure(bundle, Measure()), bundle, as_json)


app.command()(command_with(GateOptions, gate))


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
        echo(f"{kind + ':':12} {', '.join(plugin_names(package))}")
    echo(f"{'devices:':12} {', '.join(device_names())}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what is installed and really runs on this machine."""
    from pipeline.commands.doctor import examine, findings_json, findings_text

    findings = examine()
    echo(findings_json(findings) if as_json else findings_text(findings))
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(3)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.toml"),
) -> None:
    """Write a commented recipe to start from."""
    from importlib import resources

    from pipeline.commands.outputs import write_new

    example = resources.files("pipeline.commands") / "example"
    write_new(path, (example / "template.toml").read_text())
    echo(f"wrote {path}; edit it, then: slimgate run {path}")


def main() -> None:
    """The console script: whatever happens becomes one message and a documented exit code."""
    open_standard_streams()
    logging.basicConfig(level=logging.WARNING, handlers=[message_handler(sys.stderr)])
    logging.getLogger("slimgate").setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that know ASCII alone
    sys.exit(_exit_code())


def _exit_code() -> int:
    """Run the command. 1 is the gate's alone: nothing else may be taken for its answer."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except SlimgateError as error:
        return _print_error(str(error), error.exit_code)
    except Stopped as stopped:
        return _print_error("stopped; finished stages are kept", 128 + stopped.args[0])
    except (OSError, SystemExit) as error:  # SystemExit is typer's answer to a closed pipe
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.ENOSPC):
            return _print_error(_bug_report(error), StageError.exit_code)
        # What is left in the buffer would fail once more as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _print_error(
            "the result could not be printed: is its reader gone, or the disk full?",
            StageError.exit_code,
        )
    except Exception as error:
        if isinstance(error, UsageError):
            words = io.StringIO()
            error.show(words)
            sys.stderr.write(printable(words.getvalue()))
            return error.exit_code
        return _print_error(_bug_report(error), StageError.exit_code)
    return code if isinstance(code, int) else 0


def _print_error(message: str, exit_code: int) -> int:
    if os.environ.get("SLIMGATE_DEBUG"):
        print(printable(traceback.format_exc()), file=sys.stderr)
    print(printable(f"slimgate: {message}"), file=sys.stderr)
    return exit_code


def _bug_report(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__}: {error} ({last.filename}:{last.lineno}). slimgate is "
        "at fault, please report it with what your command prints as `slimgate --debug ...`"
    )


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)
