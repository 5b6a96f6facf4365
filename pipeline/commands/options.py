"""The options that several commands share, and commands whose options are a dataclass."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, get_type_hints

import typer

Options = TypeVar("Options")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a .toml file.")]
BundlePath = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="The store's folder; without it $SLIMGATE_CACHE, or the user's cache folder.",
    ),
]
Refresh = Annotated[
    list[str] | None,
    typer.Option(
        "--refresh",
        metavar="STAGE",
        help="Make this stage's result again, and those of all stages after it; its name is as "
        "`slimgate plan` prints it. May be given several times.",
    ),
]
OutDir = Annotated[Path, typer.Option("--out", help="The folder that the result is written to.")]


class Command(Protocol):
    """A command as Typer calls it, with the values of its parameters."""

    def __call__(self, **values: object) -> None: ...


def command_with(options: type[Options], command: Callable[[Options], None]) -> Command:
    """`command` as Typer wants it: with a parameter for each field of the dataclass `options`.

    Typer takes the name, the help text and the parameters from what `inspect` tells of it.
    """

    def with_parameters(**values: object) -> None:
        command(options(**values))

    with_parameters.__name__, with_parameters.__doc__ = command.__name__, command.__doc__
    with_parameters.__annotations__ = get_type_hints(options, include_extras=True)
    vars(with_parameters)["__signature__"] = inspect.signature(options)
    return with_parameters
