"""`slimgate devices`: the device profiles there are, and one of this very machine."""

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.outputs import write_new
from pipeline.commands.terminal import echo
from profiles.device import DEFAULT_ENGINE, device_names, load_device
from profiles.host import Host, this_host

app = typer.Typer(invoke_without_command=True, help="List, show and write device profiles.")


def listed() -> list[tuple[str, str, str]]:
    """Rows of name, engine at its precision, description of the shipped devices."""
    devices = [(name, load_device(name, Path())) for name in device_names()]
    return [(name, f"{d.engine} {d.precision}", d.description) for name, d in devices]


def shown(name: str) -> str:
    """The shipped profile as it is written, sources and all. Raises ConfigError for no such one."""
    load_device(name, Path())
    return (resources.files("profiles") / "devices" / f"{name}.toml").read_text()


def probed(host: Host, flags: str) -> str:
    """A profile of the machine `host`, whose processor has these flags, to be edited.

    It counts as that machine only: the model and processor it reports must be the same.
    """
    identity = {"machine": host.machine, "model": host.model, "cpu": host.cpu}
    lines = [f"{key} = {json.dumps(value)}" for key, value in identity.items() if value]
    multiple = 16 if "avx512f" in flags.split() else 8
    return f"""description = {json.dumps(f"{host.model or host.machine}, {host.cores} processors")}
engine = {json.dumps(DEFAULT_ENGINE):<22}# slimgate list
precision = "fp32"
threads = 1                    # several make latencies wall time, and every ratio of them
batch = 1
channel_multiple = {multiple:<12}# channels that its kernels work on at a time

[identity]                     # what a machine must report to count as this device
{chr(10).join(lines)}
cores = {host.cores}

[budget]                       # for recipes that set none
top1_drop = 0.01
latency_p50_ratio = 0.9
"""


def cpu_flags(root: Path = Path("/")) -> str:
    """What the processor can do, as Linux names it; empty elsewhere."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return found[0] if found else ""


@app.callback()
def list_(context: typer.Context) -> None:
    """Name the device profiles that come with slimgate."""
    if context.invoked_subcommand is None:
        from pipeline.report.text import aligned

        echo(aligned([("device", "engine", ""), *listed()]))


@app.command()
def show(name: Annotated[str, typer.Argument(help="A device of the list.")]) -> None:
    """Print a profile with the source of every number: a start for one of your own."""

    echo(shown(name).rstrip())


@app.command()
def probe(
    path: Annotated[Path, typer.Argument(help="The profile to write.")] = Path("device.toml"),
) -> None:
    """Write a profile of this very machine."""
    text = probed(this_host(()), cpu_flags())
    write_new(path, text)
    echo(f'wrote {path}; edit it, then in a recipe: target.device = "{path}"')
