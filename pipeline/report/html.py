"""The report as one HTML page to send: no scripts, nothing to fetch, every text escaped."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.release.bundle import Release
from pipeline.report.charts import Row, channels, pareto, rows_across
from pipeline.report.content import ReportContent
from pipeline.report.target_charts import Chart, points_of
from pipeline.report.target_section import CheckView, TargetView, number, target_view
from pipeline.report.text import built_rows, macs_line, step_rows
from pipeline.store.reports import ExportReport, PruneReport, Trial
from profiles.gate import Outcome
from profiles.printable import printable
from profiles.statistics import exact

LEADS = {
    "pass": "This release may ship.",
    "fail": "This release must not ship.",
    "inconclusive": "This release must not ship on this evidence.",
}


@dataclass(frozen=True)
class UnpassedCheck:
    """A check that failed, is inconclusive or passed by a waiver only."""

    target: str
    view: CheckView


@dataclass(frozen=True)
class ExportStep:
    """A step from the network to an engine."""

    made: str
    how: str
    difference: str
    """How far the outputs are from those of the step before, in words."""


@dataclass(frozen=True)
class Summary:
    """What is read first."""

    status: Outcome
    names: str
    lead: str
    counts: str
    not_passed: tuple[UnpassedCheck, ...]


def page(content: ReportContent) -> str:
    """The report as HTML."""
    found, checked, exported = content.release, content.checked, content.exported
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["distance"] = _distance
    baselines = checked.baselines if checked else ()
    views = [target_view(target, found.pruned, baselines) for target in found.targets]
    multiple = max((t.terms.device.channel_multiple for t in found.targets), default=1)
    groups = [(name, group.units, group.kept) for name, group in found.pruned.groups.items()]
    macs = macs_line(found.pruned)
    made = environment.get_template("html.j2").render(
        summary=_summary(found, views),
        targets=views,
        overview=_overview(found),
        pruned=found.pruned,
        macs=macs[0].upper() + macs[1:],
        trials=_trials(found.pruned),
        built=built_rows(found.pruned),
        repaired=content.repaired,
        checked=checked,
        channels=channels("Channels by layer", groups),
        exported=exported,
        export_steps=_export_steps(found, exported),
        multiple=multiple,
        steps=step_rows(content, multiple),
        stages=content.stages,
    )
    return printable(made)


def _summary(found: Release, views: Sequence[TargetView]) -> Summary:
    not_passed = [
        UnpassedCheck(view.judged.terms.device_name, line)
        for view in views
        for line in view.checks
        if line.check.status != "pass"
    ]
    lines = [line for view in views for line in view.checks]
    counts = Counter(line.check.status for line in lines)
    by_waiver = found.status == "pass" and "waived" in counts
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    return Summary(
        status=found.status,
        names=", ".join(target.terms.device_name for target in found.targets),
        lead="This release may ship by waiver." if by_waiver else LEADS[found.status],
        counts=f"Of {len(lines)} checks: {by_status}." if lines else "Nothing was checked.",
        not_passed=tuple(not_passed),
    )


def _overview(found: Release) -> Chart | None:
    """All targets in one drawing, where there are several."""
    if len(found.targets) < 2:
        return None
    first = found.targets[0]
    points = [points_of(first, "")[0]]
    points += [points_of(target, target.terms.device_name)[1] for target in found.targets]
    title = "Accuracy against time"
    drawing = pareto(title, "time of a call, shipped / dense", points, math.nan, math.nan)
    return Chart(
        title,
        drawing,
        "Bars are one-sided 95 % bounds of each engine alone; dense is drawn as measured on "
        f"{first.terms.device_name}.",
    )


def _trials(pruned: PruneReport) -> Chart | None:
    """The distances of what was tried, where there is something to compare."""
    rows = [
        Row(
            f"{trial.criterion}, {trial.allocator}",
            "shipped" if _is_chosen(pruned, trial) else "other",
            exact(trial.distance),
            "chosen" if _is_chosen(pruned, trial) else "",
        )
        for trial in pruned.trials
        if trial.distance is not None
    ]
    if len(rows) < 2:
        return None
    title = "Distance from the dense network's outputs"
    drawing = rows_across(title, "distance, on held-out samples after a quick repair", rows)
    return Chart(title, drawing, "Less is nearer to the dense network.")


def _export_steps(found: Release, exported: ExportReport) -> list[ExportStep]:
    """Every step of the network that ships, to the engine of each target."""
    steps = [
        ExportStep(
            "ONNX",
            f"{exported.method}, opset {exported.opset}",
            f"differs by {exported.export_error:.1e}",
        ),
        ExportStep(
            "simplified ONNX",
            f"{exported.simplified_by or 'left as it is'}, "
            f"{exported.nodes_exported} → {exported.nodes} nodes",
            f"differs by {exported.simplify_error:.1e}",
        ),
    ]
    for target in found.targets:
        device, engine = target.terms.device, target.measurement.shipped
        error = engine.parity_error
        difference = "never compared" if math.isnan(error) else f"differs by {error:.1e}"
        how = f"{device.engine} {device.precision}, for {target.terms.device_name}"
        steps.append(ExportStep("engine", how, engine.unverified or difference))
    return steps


def _is_chosen(pruned: PruneReport, trial: Trial) -> bool:
    return (trial.criterion, trial.allocator) == (pruned.criterion, pruned.allocator)


def _distance(value: float | None) -> str:
    return "-" if value is None else number(value)
