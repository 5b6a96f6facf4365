"""`slimgate plan`: the stages a run would take, which of them are stored, and what cannot pass."""

import json
import logging
from pathlib import Path

from pipeline.commands.steps import flow_on_devices
from pipeline.store.results import Results
from pipeline.store.runner import DryRun, PlannedStage
from pipeline.store.store import default_root

log = logging.getLogger("slimgate")

WORDS = {
    "whole": "cached",
    "absent": "to run",
    "damaged": "damaged, to run",
    "unreadable": "unreadable",
}


def planned(recipe: Path, cache: Path | None, as_json: bool) -> str:
    """A line for each stage, or one JSON object. Runs none, but loads the trained network.

    Raises ConfigError and IntegrityError for weights that a run would refuse.
    """
    runner = DryRun(Results(cache or default_root()))
    flow = flow_on_devices(recipe, runner)
    flow.dense.network()  # weights that do not fit it are found now, not by the run
    flow.exported()
    flow.exported_dense()
    flow.checked()
    for target in flow.targets:
        if flow.is_reachable(target):  # what is built there depends on what is there
            flow.built_dense(target)
            flow.built(target)
    stages = list(dict.fromkeys(runner.records))  # targets share what does not depend on them
    for row in stages:
        if row.found.reason:
            log.warning("%s: %s", row.name, row.found.reason)
    if as_json:
        fields = {
            "schema_version": 1,
            "stages": [_as_json(row) for row in stages],
            "doubts": flow.warnings(),
        }
        return json.dumps(fields, indent=1)
    return "\n".join([*_lines(stages), *flow.warnings()])


def _as_json(row: PlannedStage) -> dict[str, object]:
    return {
        "name": row.name,
        "key": row.key,
        "cached": row.found.state == "whole",
        "stored": row.found.state,
    }


def _lines(stages: list[PlannedStage]) -> list[str]:
    words = [WORDS[row.found.state] for row in stages]
    first = max(map(len, [*words, "always"])) + 2
    second = max(len(row.name) for row in stages) + 2
    rows = zip(words, stages, strict=True)
    lines = [f"{word:{first}}{row.name:{second}}{row.key[:16]}" for word, row in rows]
    return [*lines, f"{'always':{first}}measure, judge, bundle"]
