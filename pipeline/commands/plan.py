"""`slimgate plan`: the stages a run would take, which of them are stored, and what cannot pass."""

import json
from pathlib import Path

from pipeline.commands.steps import flow_on_devices, store_at
from pipeline.store.runner import DryRun


def planned(recipe: Path, cache: Path | None, as_json: bool) -> str:
    """A line for each stage, or one JSON object. Runs none, but loads and traces the network.

    Raises ConfigError and IntegrityError for weights that a run would refuse.
    """
    store = store_at(cache)
    runner = DryRun(store.has)
    flow = flow_on_devices(recipe, runner)
    flow.dense.network()  # weights that do not fit it are found now, not by the run
    flow.exported()
    flow.exported_dense()
    flow.checked()
    for target in flow.targets:
        if flow.is_reachable(target):  # what is built there depends on what is there
            flow.built_dense(target)
            flow.built(target)
    doubts = flow.warnings()
    if not store.has(flow.recipe.prune_steps()[0].key(flow.dense)):
        doubts += flow.recipe.prune.doubts(flow.dense)
    stages = list(dict.fromkeys(runner.records))  # targets share what does not depend on them
    if as_json:
        rows = [{"name": r.name, "key": r.key, "cached": r.cached} for r in stages]
        fields = {"schema_version": 1, "stages": rows, "doubts": doubts}
        return json.dumps(fields, indent=1)
    width = max(len(row.name) for row in stages) + 2
    lines = [
        f"{'cached' if row.cached else 'to run':8}{row.name:{width}}{row.key[:16]}"
        for row in stages
    ]
    return "\n".join([*lines, "always  measure, judge, bundle", *doubts])
