"""`slimgate gate`: judge a bundle anew, also beside the last one released. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import BundlePath, Json
from pipeline.commands.outputs import write_report


@dataclass(frozen=True)
class GateOptions:
    """The arguments and options of `slimgate gate`."""

    bundle: BundlePath
    last: Annotated[
        Path | None,
        typer.Option(
            "--against", help="The last released bundle; the gate then fails what got worse."
        ),
    ] = None
    tolerance: Annotated[
        float,
        typer.Option(
            help="How much worse a figure may be than in the --against bundle (0.04 = 4 %)."
        ),
    ] = 0.04
    top1_drop: Annotated[
        float, typer.Option(help="Largest accuracy loss against that bundle (0.01 = 1 point).")
    ] = 0.01
    waiver: Annotated[
        Path | None,
        typer.Option(
            "--accept-waiver", help="Signed waiver file raising named limits until a date."
        ),
    ] = None
    junit: Annotated[
        Path | None, typer.Option(help="Also write the verdict here as JUnit XML.")
    ] = None
    markdown: Annotated[
        Path | None, typer.Option(help="Also write a summary of the verdict here as Markdown.")
    ] = None
    as_json: Json = False


OURS = "<!-- slimgate gate -->"
"""Ends a summary, where no reader sees it."""


def gate(options: GateOptions) -> None:
    """Judge a bundle anew from its raw samples. Needs no torch and no runtime."""
    from datetime import UTC, datetime

    from pipeline.commands.verdict import exit_with_verdict
    from pipeline.release.bundle import judge_bundle
    from pipeline.release.regression import against
    from pipeline.report.junit import junit as junit_xml
    from pipeline.report.text import summary
    from profiles.waiver import read_waivers

    waivers = read_waivers(options.waiver) if options.waiver else ()
    found = judge_bundle(options.bundle, waivers, datetime.now(UTC).date())
    if options.last:
        found = against(found, judge_bundle(options.last), options.tolerance, options.top1_drop)
    if options.junit:
        write_report(options.junit, junit_xml(found), '<testsuites name="slimgate">')
    if options.markdown:
        write_report(options.markdown, summary(found) + f"\n{OURS}\n", OURS)
    exit_with_verdict(found, options.bundle, options.as_json)
