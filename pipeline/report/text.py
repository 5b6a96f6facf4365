"""The verdict as people read it: a table on the terminal, and a page of Markdown."""

import math
from collections.abc import Mapping, Sequence

from exporters.graph.cost import LayerCost
from pipeline.release.bundle import Judged, Release
from pipeline.report.content import ReportContent
from pipeline.store.reports import CheckReport, PruneReport, RepairReport
from profiles.figures import FIGURES
from profiles.gate import Check
from profiles.limits import limit_of
from profiles.printable import one_line, printable

SLOWEST = 10
"""The most layers that are named."""


def comparison(found: Judged) -> list[tuple[str, str, str, str]]:
    """Rows of name, dense, shipped, shipped / dense; a dash for what was not measured."""
    dense, shipped = found.dense(), found.shipped()
    rows = []
    for name, figure in FIGURES.items():
        before, after = dense[name], shipped[name]
        ratio = after / before if before else math.nan
        rows.append(
            (
                figure.label,
                _decimal(figure.scale * before, figure.decimals),
                _decimal(figure.scale * after, figure.decimals),
                _decimal(ratio, 3),
            )
        )
    return rows


def _decimal(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def check_lines(found: Judged) -> list[tuple[str, str, str, str, str]]:
    """Rows of name, measured with its interval, limit, status, reason."""
    return [
        (check.name, measured_words(check), limit_words(check), check.status, check.reason)
        for check in found.verdict.checks
    ]


def measured_words(check: Check) -> str:
    """The figure and its bounds, in the unit of the check's name; a dash where there is none."""
    if math.isnan(check.measured):
        return "-"
    return f"{check.measured:.6g} [{check.lower:.6g}, {check.upper:.6g}]"


def limit_words(check: Check) -> str:
    """The limit, and on which side of it the figure must be."""
    return f"{'>=' if limit_of(check.name).is_minimum else '<='} {check.limit:.6g}"


def text(found: Release) -> str:
    """What a run prints: of each target the comparison and one line a check; then the verdict."""
    parts = [part for target in found.targets for part in _target_text(target)]
    return "\n\n".join([*parts, macs_line(found.pruned), f"verdict: {found.status.upper()}"])


def _target_text(target: Judged) -> list[str]:
    head = (target.terms.device_name, "dense", "shipped", "ratio")
    checks = ("check", "measured [bounds]", "limit", "status", "")
    return [
        aligned([head, *comparison(target)]),
        aligned([checks, *check_lines(target)]),
    ]


def macs_line(pruned: PruneReport) -> str:
    """Asked and achieved, side by side."""
    asked = "" if pruned.macs_ratio_asked is None else f", {pruned.macs_ratio_asked:.3f} asked"
    return (
        f"pruned to {pruned.macs / 1e6:.3f} of {pruned.macs_dense / 1e6:.3f} MMACs "
        f"({2 * pruned.macs / 1e6:.3f} of {2 * pruned.macs_dense / 1e6:.3f} MFLOPs): "
        f"{pruned.macs_ratio:.3f} achieved{asked}"
    )


def markdown(content: ReportContent) -> str:
    """One page: verdict, budgets, comparisons, choices, repair, layers, provenance."""
    found, exported = content.release, content.exported
    refused = found.pruned.refused
    multiples = [target.terms.device.channel_multiple for target in found.targets]
    sections = [
        summary(found),
        *_choice(found.pruned),
        *_repair(content.repaired),
        *_checks(content.checked),
        f"## Channels\n\n{macs_line(found.pruned).capitalize()}.\n\n"
        + _table(
            ("first layer of the group", "before", "after"),
            [(name, str(g.units), str(g.kept)) for name, g in found.pruned.groups.items()],
        )
        + "".join(f"\n\nNot pruned: {_cell(n)}: {_cell(why)}." for n, why in refused.items()),
        "## Export\n\n"
        f"By {exported.method}, opset {exported.opset}, {exported.nodes_exported} nodes, "
        f"{exported.nodes} after simplifying; largest relative difference to torch "
        f"{exported.export_error:.1e}, by simplifying {exported.simplify_error:.1e}."
        + "".join(f"\n\nRefused: {_cell(reason)}." for reason in exported.refused),
        *_steps(content, max(multiples)),
        "## Stages\n\n"
        + _table(
            ("stage", "key", "cached", "seconds"),
            [
                (s.name, s.key[:12], str(s.cached).lower(), f"{s.seconds:.1f}")
                for s in content.stages
            ],
        ),
    ]
    return printable("\n\n".join(sections)) + "\n"


def summary(found: Release) -> str:
    """The verdict and every target's budget in Markdown, as CI pages show it."""
    names = ", ".join(target.terms.device_name for target in found.targets)
    head = f"# {found.status.upper()}: {_cell(names)}"
    return printable("\n\n".join([head, *(_target_page(target) for target in found.targets)]))


def _target_page(target: Judged) -> str:
    host, measurement = target.measurement.host, target.measurement
    starts = measurement.shipped.starts
    versions = ", ".join(f"{name} {version}" for name, version in sorted(host.versions.items()))
    method = f" ({_cell(starts[0].method)})" if starts else ""
    return "\n\n".join(
        [
            f"## {_cell(target.terms.device_name)}: {target.verdict.status}",
            f"{_cell(target.terms.device.description)}. Engine `{target.terms.engine}`, "
            f"sha256 `{measurement.shipped.sha256}`.",
            "Bounds are one-sided at 95 %. Latencies in ms are wall time of a batch of "
            f"{measurement.batch}, their ratios {measurement.clock} time.",
            _table(
                ("check", "measured [bounds]", "limit", "status", "reason"), check_lines(target)
            ),
            _table(("figure", "dense", "shipped", "ratio"), comparison(target)),
            f"Measured on {_cell(', '.join(host.processors()))} "
            f"({_cell(host.machine)}, {_cell(host.system)}), "
            f"{measurement.threads} thread(s), {len(measurement.latency)} processes, "
            f"{len(measurement.shipped.scores)} validation samples. Peak memory is what loading "
            f"and running adds to a process that has only imported the runtime{method}.",
            *_slowest(measurement.shipped.layers_ms),
            f"Versions: {_cell(versions)}.",
        ]
    )


def built_rows(pruned: PruneReport) -> list[tuple[str, str, str]]:
    """A line for each network that was built to meet a budget."""
    return [(f"{one.macs_ratio:.3f}", f"{one.share:.3f}", one.largest) for one in pruned.built]


def _slowest(layers_ms: Mapping[str, float]) -> list[str]:
    rows = slowest_rows(layers_ms)
    return ["Slowest layers:\n\n" + _table(("layer", "ms", "part of all"), rows)] if rows else []


def _choice(pruned: PruneReport) -> list[str]:
    """What the channels were chosen by, and the trials behind it."""
    text = f"## Choice\n\nCriterion {_cell(pruned.criterion)}, allocator {_cell(pruned.allocator)}."
    if pruned.trials:
        rows = [(t.criterion, t.allocator, _figure(t.distance), t.reason) for t in pruned.trials]
        text += (
            " Tried on samples held out from calibration, each repaired quickly; the distance "
            "is that of the outputs from the dense network's:\n\n"
            + _table(("criterion", "allocator", "distance", ""), rows)
        )
    if pruned.built:
        text += "\n\nBuilt and measured until one just met the budget:\n\n"
        text += _table(("MACs kept", "part of the budget", "by"), built_rows(pruned))
    return [text + "".join(f"\n\n{_cell(remark)}." for remark in pruned.remarks)]


def _repair(repaired: RepairReport | None) -> list[str]:
    """Each recovery, and whether it was kept."""
    if repaired is None:
        return []
    rows = [
        (r.name, _figure(r.distance_before), _figure(r.distance_after), "yes" if r.kept else "no")
        for r in repaired.recoveries
    ]
    remarks = [remark for recovery in repaired.recoveries for remark in recovery.remarks]
    return [
        "## Repair\n\nDistance from the dense network's outputs on held-out samples.\n\n"
        + _table(("recovery", "before", "after", "kept"), rows)
        + "".join(f"\n\n{_cell(remark)}." for remark in remarks)
    ]


def _checks(checked: CheckReport | None) -> list[str]:
    """The baselines, and how well the distance foretells the score."""
    if checked is None:
        return []
    rows = [(b.name, _figure(b.distance), _figure(b.score)) for b in checked.baselines]
    text = "## Checks\n\nDistance after a quick repair, score on the validation samples.\n\n"
    text += _table(("network", "distance", "score"), rows)
    if checked.plans:
        tau = _figure(checked.kendall_tau)
        text += f"\n\nKendall's tau of nearness and score over {checked.plans} plans: {tau}."
    return [text]


def just_above_a_step(layers: Sequence[LayerCost], multiple: int) -> list[LayerCost]:
    """Convolutions whose channels end in the lower half of a multiple that they pay in full."""
    return [
        layer
        for layer in layers
        if layer.op.startswith("Conv") and 0 < layer.channels % multiple <= multiple // 2
    ]


def slowest_rows(layers_ms: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Rows of layer, ms and its part of all layers, the slowest first."""
    whole = sum(layers_ms.values())
    slowest = sorted(layers_ms.items(), key=lambda item: -item[1])[:SLOWEST]
    return [(name, f"{ms:.4g}", f"{ms / whole:.1%}") for name, ms in slowest if whole]


def step_rows(content: ReportContent, multiple: int) -> list[tuple[str, str, str, str]]:
    """Of those layers: name, channels, those it takes as long as, part of the MACs.

    None where widths were chosen by times, which know better.
    """
    exported = content.exported
    if content.release.pruned.widths_by_time:
        return []
    return [
        (
            layer.name,
            str(layer.channels),
            str(-(-layer.channels // multiple) * multiple),
            f"{layer.macs / max(exported.macs, 1):.1%}",
        )
        for layer in just_above_a_step(exported.layers, multiple)
    ]


def _steps(content: ReportContent, multiple: int) -> list[str]:
    """What those layers are, and what they cost."""
    rows = step_rows(content, multiple)
    if not rows:
        return []
    return [
        f"## Widths just above a step\n\nThe device works on {multiple} channels at a time: these "
        "layers take about as long as with the channels of the third column.\n\n"
        + _table(("layer", "channels", "as long as", "part of the MACs"), rows)
    ]


def _figure(distance: float | None) -> str:
    return "-" if distance is None else f"{distance:.4g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the last one is not padded. A row is one line."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A name from a user's network or device must not break the table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
