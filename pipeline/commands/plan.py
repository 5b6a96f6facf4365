"""`slimgate plan`: the stages a run would take, which of them are stored, and what cannot pass."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.steps import check_refresh, every_stage, flow_on_devices
from pipeline.data.input_files import InputFiles
from pipeline.store.key_record import KeyRecord, Parts, changes, flat
from pipeline.store.results import Results
from pipeline.store.runner import DryRun
from pipeline.store.store import default_root
from profiles.errors import DeviceError

log = logging.getLogger("slimgate")

MANY_FILES = 10
WORDS = {
    "whole": "cached",
    "absent": "to run",
    "damaged": "damaged, to run",
    "unreadable": "unreadable",
    "": "",
}


@dataclass(frozen=True)
class Step:
    """The task, or a stage: what its key is made of."""

    name: str
    key: str
    stored: str
    """How its result stands in the store; empty for the task."""
    depends_on: Parts
    changed: Mapping[str, str | None]
    """What of it is another in the nearest stored result: the value there, None for none."""


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    task: Step
    files: Mapping[str, str]
    """The places of the task's files, by what they are to it."""
    stages: Sequence[Step]
    doubts: Sequence[str]
    """Why the gate will not be able to pass."""


def plan_of(recipe: Path, cache: Path | None, refresh: Collection[str]) -> Plan:
    """What a run would do that makes the stages of `refresh` again.

    Runs no stage, but loads the trained network, and traces it where pruning is to run.

    Raises ConfigError and IntegrityError for weights that a run would refuse.
    """
    results = Results(cache or default_root())
    runner = DryRun(results, refresh)
    flow = flow_on_devices(recipe, runner)
    flow.dense.network()  # weights that do not fit it are found now, not by the run
    unknown: tuple[str, ...] = ()
    try:
        every_stage(flow)
    except DeviceError as error:  # what is pruned depends on what would be measured there
        unknown = (f"the rest is not known: {error}",)
    check_refresh(refresh, [row.name for row in runner.records])
    for row in runner.records:
        if row.found.reason:
            log.warning("%s: %s", row.name, row.found.reason)
    records = results.key_records()
    stages = [
        Step(row.name, row.key, row.found.state, row.depends_on, changed)
        for row in runner.records
        for changed in [changes(row.depends_on, _parts_of(row.name, records))]
    ]
    origin = flow.dense.origin
    assert origin is not None
    parts, earlier = origin.depends_on(), [one.task for one in records if one.task]
    task = Step("task", origin.key, "", parts, changes(parts, earlier))
    files = {name: _places(files) for name, files in origin.files.items()}
    doubts = [*flow.warnings(), *unknown]
    if any(stage.name.startswith("prune") and stage.stored != "whole" for stage in stages):
        doubts += flow.recipe.prune.doubts(flow.dense)
    return Plan(task, files, stages, doubts)


def _places(files: InputFiles) -> str:
    """The files by name while they are few."""
    if len(files.states) > MANY_FILES:
        return f"{files.path} ({len(files.states)} files)"
    return ", ".join(map(str, files.states))


def _parts_of(stage: str, records: Sequence[KeyRecord]) -> list[Parts]:
    return [record.depends_on for record in records if record.stage == stage]


def plan_json(plan: Plan) -> str:
    """One versioned object."""
    stages = [{**_as_json(step), "cached": step.stored == "whole"} for step in plan.stages]
    task = {**_as_json(plan.task), "files": plan.files}
    fields = {"schema_version": 1, "task": task, "stages": stages, "doubts": plan.doubts}
    return json.dumps(fields, indent=1)


def _as_json(step: Step) -> dict[str, object]:
    return {
        "name": step.name,
        "key": step.key,
        "stored": step.stored or None,
        "depends_on": step.depends_on,
        "changed": step.changed,
    }


def plan_text(plan: Plan, keys: bool) -> str:
    """A line for each stage; with `keys` the task, and beneath each what its key is made of."""
    steps = [plan.task, *plan.stages] if keys else plan.stages
    first = max(len(word) for word in [*(WORDS[step.stored] for step in steps), "always"]) + 2
    second = max((len(step.name) for step in steps), default=0) + 2
    names = {step.key: step.name for step in [*plan.stages, plan.task]}
    lines = []
    for step in steps:
        lines.append(f"{WORDS[step.stored]:{first}}{step.name:{second}}{step.key[:16]}")
        if keys:
            lines += [" " * first + line for line in _part_lines(step, names, plan.files)]
    return "\n".join([*lines, f"{'always':{first}}measure, judge, bundle", *plan.doubts])


def _part_lines(step: Step, names: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    """Each part by its name; a key by the name of its stage, a file by its place."""
    now = flat(step.depends_on)
    width = max(map(len, [*now, *step.changed])) + 2
    for name in [*now, *sorted(step.changed.keys() - now.keys())]:
        value = now.get(name)
        shown = _shown(value)
        if name == "source":
            shown = f"{names[value or '']} {shown}"
        if step.name == "task" and name.startswith("files."):
            shown = f"{files[name.removeprefix('files.')]} {shown}"
        was = f"  (was {_shown(step.changed[name])})" if name in step.changed else ""
        yield f"  {name:{width}}{shown}{was}"


def _shown(value: str | None) -> str:
    """A part of a key; of a digest its first digits."""
    if value is None:
        return "nothing"
    is_digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:16] if is_digest else value
