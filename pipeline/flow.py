"""The whole flow, one screen:

task -> prune -> recover -> finetune -> export, simplify -> build -> measure -> judge -> bundle
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Checked, Checkpoint, Engine, OnnxModel, Pruned, Recovered
from pipeline.bundle import Judged, Release, Terms, judged, write_bundle
from pipeline.evidence import measure
from pipeline.page import page
from pipeline.place import place_of
from pipeline.recipe import Aim, Recipe
from pipeline.report import markdown
from pipeline.stage import Stage
from pipeline.stages.build import Build
from pipeline.store import Runner, Store
from profiles.host import Host, this_host
from profiles.spec import Spec
from profiles.statistics import provable_drop, samples_needed

log = logging.getLogger("slimgate")


@dataclass(frozen=True)
class Flow:
    """One recipe and its targets. Each step asks the runner for the step before it."""

    recipe: Recipe
    aims: tuple[Aim, ...]
    dense: Checkpoint
    runner: Runner

    def pruned(self) -> Pruned:
        """The network after the last step of the schedule."""
        *steps, last = self.recipe.prunes()
        source = self.dense
        for number, prune in enumerate(steps, 1):
            pruned = self.runner.run(f"prune {number}", prune, source)
            recovered = self._maybe(f"recover {number}", self.recipe.recover, pruned)
            source = self._maybe(f"finetune {number}", self.recipe.between(), recovered)
        return self.runner.run("prune", last, source)

    def recovered(self) -> Checkpoint:
        return self._maybe("recover", self.recipe.recover, self.pruned())

    def finetuned(self) -> Checkpoint:
        return self._maybe("finetune", self.recipe.finetune, self.recovered())

    def checked(self) -> Checked | None:
        check = self.recipe.check()
        return self.runner.run("check", check, self.pruned()) if check else None

    def exported(self) -> OnnxModel:
        return self.runner.run("export", self.recipe.export, self.finetuned())

    def exported_dense(self) -> OnnxModel:
        return self.runner.run("export dense", self.recipe.export, self.dense)

    def built(self, aim: Aim) -> Engine:
        return self.built_by(_build(aim))

    def built_by(self, build: Build) -> Engine:
        """The engine of any runtime, whatever the target's own is."""
        return self.runner.run("build", build, self.exported())

    def built_dense(self, aim: Aim) -> Engine:
        return self.runner.run("build dense", _build(aim), self.exported_dense())

    def doubts(self) -> list[str]:
        """What the gate will not be able to pass, as far as can be told before anything runs."""
        count, host = len(self.dense.task.validation), this_host(())
        return [
            f"{aim.name}: {doubt}; it will be inconclusive"
            for aim in self.aims
            for doubt in (_absent(aim, host), _too_few(aim, count))
            if doubt
        ]

    def _maybe(
        self, name: str, stage: Stage[Checkpoint, Checkpoint] | None, source: Checkpoint
    ) -> Checkpoint:
        return self.runner.run(name, stage, source) if stage else source


def _absent(aim: Aim, host: Host) -> str:
    unlike = aim.device.identity.unlike(host)
    if aim.ssh or not unlike:
        return ""
    return f"this machine is not the device ({unlike}): say where it is in target.ssh"


def _too_few(aim: Aim, count: int) -> str:
    drop = aim.budget.top1_drop
    if drop is None or provable_drop(count) <= drop:
        return ""
    needed = samples_needed(drop) or "endless"
    return f"top1_drop {drop:g} needs about {needed} validation samples, there are {count}"


def _build(aim: Aim) -> Build:
    return Build(engine=aim.device.engine, options=aim.device.options())


def load_flow(recipe: Recipe, aims: tuple[Aim, ...], base: Path, runner: Runner) -> Flow:
    """The flow of a recipe whose paths are relative to `base`; loads data, builds nothing."""
    task = recipe.task.load(base)
    weights = base / recipe.task.weights if recipe.task.weights else None
    dense = Checkpoint(recipe.task.digest(base), task, weights, None)
    return Flow(recipe, aims, dense, runner)


def release(flow: Flow, store: Store, out: Path) -> Release:
    """Run everything, judge, and write the bundle to `out`, whatever the verdict."""
    for doubt in flow.doubts():
        log.warning(doubt)
    files: dict[str, Path] = {"model.onnx": flow.exported().model, "plan.json": flow.pruned().plan}
    targets = []
    for aim in flow.aims:
        dense, shipped = flow.built_dense(aim), flow.built(aim)
        terms = _terms(aim, dense, shipped, alone=len(flow.aims) == 1)
        files |= {terms.engine: shipped.path, terms.dense: dense.path}
        targets.append(_judged(flow, aim, terms, dense, shipped))
    found = Release(flow.pruned().report(), tuple(targets))
    exported = flow.exported().report()
    specs: dict[str, Spec] = {"recipe.json": flow.recipe, "export.json": exported}
    if flow.dense.task.preprocessing:
        specs["preprocess.json"] = flow.dense.task.preprocessing
    recovered = flow.recovered()
    repaired = recovered.report() if isinstance(recovered, Recovered) else None
    checked = flow.checked()
    told = (found, repaired, checked.report() if checked else None, exported, store.records)
    pages = {"report.md": markdown(*told), "report.html": page(*told)}
    with store.alone(f"write {out.resolve()}"):
        write_bundle(out, files, specs, found, pages)
    return found


def _terms(aim: Aim, dense: Engine, shipped: Engine, alone: bool) -> Terms:
    """The names of one target's files begin with its own where there are several."""
    prefix = "" if alone else f"{aim.name}-"
    return Terms(
        device_name=aim.name,
        device=aim.device,
        ssh=aim.ssh and aim.ssh.model_copy(update={"key_file": None}),
        budget=aim.budget,
        engine=prefix + shipped.path.name,
        dense=f"{prefix}dense{''.join(dense.path.suffixes)}",
        measurement=f"{prefix}measurement.json",
    )


def _judged(flow: Flow, aim: Aim, terms: Terms, dense: Engine, shipped: Engine) -> Judged:
    with place_of(aim.ssh) as place:
        found = measure(place, flow.recipe.measure, flow.dense.task, aim, dense, shipped)
    return judged(terms, found, shipped.path)
