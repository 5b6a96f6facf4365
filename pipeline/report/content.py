"""What a report is written from: the same for the Markdown and the HTML page."""

from dataclasses import dataclass

from pipeline.release.bundle import Release
from pipeline.store.reports import CheckReport, ExportReport, RepairReport
from pipeline.store.runner import StageRecord


@dataclass(frozen=True)
class ReportContent:
    """A judged release, and how it was made."""

    release: Release
    repaired: RepairReport | None
    """The repair without training; None where the recipe has none."""
    checked: CheckReport | None
    """The comparison with baselines; None where the recipe asks for none."""
    exported: ExportReport
    stages: tuple[StageRecord, ...]
    """The stages of the run, in order."""
