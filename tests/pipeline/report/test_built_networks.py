"""What was built and measured to meet a budget, in every report."""

import html

import releases

from pipeline.release.bundle import Release
from pipeline.report.content import ReportContent
from pipeline.report.html import page
from pipeline.report.text import markdown
from pipeline.store.reports import BuiltNetwork

BUILT = (
    BuiltNetwork(macs_ratio=1, share=1.9, largest="host: 95th percentile 19 of at most 10 ms"),
    BuiltNetwork(macs_ratio=0.41, share=0.98, largest="host: 95th percentile 9.8 of at most 10 ms"),
)


def test_networks_that_were_built_to_meet_a_budget_stand_in_every_report() -> None:
    pruned = releases.pruned().model_copy(update={"built": BUILT})
    found = Release(pruned, releases.release().targets)
    content = ReportContent(found, None, None, releases.EXPORTED, ())
    for text in (markdown(content), html.unescape(page(content))):
        assert "Built and measured until one just met the budget" in text
        for cell in ("1.000", "1.900", "0.410", "0.980", BUILT[0].largest, BUILT[1].largest):
            assert cell in text


def test_without_a_budget_to_meet_there_is_no_such_table() -> None:
    content = ReportContent(releases.release(), None, None, releases.EXPORTED, ())
    for text in (markdown(content), page(content)):
        assert "Built and measured" not in text


def test_widths_that_times_chose_are_not_said_to_be_just_above_a_step() -> None:
    found = releases.release()
    by_time = found.pruned.model_copy(update={"widths_by_time": True})
    for pruned, told in ((found.pruned, True), (by_time, False)):
        content = ReportContent(Release(pruned, found.targets), None, None, releases.EXPORTED, ())
        for text in (markdown(content), page(content)):
            assert ("Widths just above a step" in text) == told
