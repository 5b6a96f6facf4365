"""How a command that judges ends: the verdict printed, and its exit code."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from pipeline.commands.terminal import echo
from pipeline.release.bundle import Release, verdict_json
from pipeline.report.text import text
from pipeline.store.runner import StageRecord
from profiles.gate import EXIT_CODES


def exit_with_verdict(
    found: Release, bundle: Path, as_json: bool, stages: Sequence[StageRecord] = ()
) -> NoReturn:
    """Print the verdict, with the stages that were run where it is JSON, and leave."""
    echo(verdict_json(found, stages, bundle) if as_json else f"{text(found)}\nbundle: {bundle}")
    raise typer.Exit(EXIT_CODES[found.status])
