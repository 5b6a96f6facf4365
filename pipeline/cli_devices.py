"""`slimgate devices`: the device profiles there are, and one of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from profiles.errors import ConfigError

app = typer.Typer(invoke_without_command=True, help="List, show and write device profiles.")


@app.callback()
def list_(context: typer.Context) -> None:
    """Name the device profiles that come with slimgate."""
    if context.invoked_subcommand is None:
        from pipeline.devices import listed
        from pipeline.report import aligned

        typer.echo(aligned([("device", "engine", ""), *listed()]))


@app.command()
def show(name: Annotated[str, typer.Argument(help="A device of the list.")]) -> None:
    """Print a profile with the source of every number: a start for one of your own."""
    from pipeline.devices import shown

    typer.echo(shown(name).rstrip())


@app.command()
def probe(
    path: Annotated[Path, typer.Argument(help="The profile to write.")] = Path("device.toml"),
) -> None:
    """Write a profile of this very machine."""
    from pipeline.devices import cpu_flags, probed
    from profiles.host import this_host

    text = probed(this_host(()), cpu_flags())
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror})") from error
    typer.echo(f'wrote {path}; edit it, then in a recipe: target.device = "{path}"')
