"""The whole flow, one screen:

task -> prune -> recover -> finetune -> export, simplify -> build -> measure -> judge -> bundle
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from exporters.exporter import Fitted, runtime
from pipeline.measure.all_targets import Hosts, measured
from pipeline.measure.evidence import Candidate
from pipeline.measure.resolved_target import Aim
from pipeline.recipe import Recipe
from pipeline.release.bundle import Release, Terms, judged, write_bundle
from pipeline.report.html import page
from pipeline.report.text import markdown
from pipeline.stages.build import Build
from pipeline.stages.build_there import BuildThere
from pipeline.store.artifacts import Checked, Checkpoint, Engine, OnnxModel, Pruned, Recovered
from pipeline.store.stage import Stage
from pipeline.store.store import Runner, Store
from profiles.errors import DeviceError
from profiles.gate import unmeasured
from profiles.host import Host
from profiles.spec import Spec
from profiles.statistics import provable_drop, samples_needed

log = logging.getLogger("slimgate")

OPEN = "it will be inconclusive"


@dataclass(frozen=True)
class Flow:
    """One recipe and its targets. Each step asks the runner for the step before it."""

    recipe: Recipe
    aims: tuple[Aim, ...]
    dense: Checkpoint
    runner: Runner
    hosts: Hosts = field(default_factory=dict)
    """What the targets' machines are; steps before the engine do not ask."""

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
        where, build = self._build(aim)
        return self.runner.run(f"build{where}", build, self.exported())

    def built_by(self, build: Build) -> Engine:
        """The engine of any runtime, whatever the target's own is."""
        return self.runner.run("build", build, self.exported())

    def built_dense(self, aim: Aim) -> Engine:
        where, build = self._build(aim)
        return self.runner.run(f"build dense{where}", build, self.exported_dense())

    def host(self, aim: Aim) -> Host:
        """What the target's machine told of itself. Raises DeviceError where it did not."""
        found = self.hosts[aim.name]
        if isinstance(found, DeviceError):
            raise found
        return found

    def answers(self, aim: Aim) -> bool:
        """Whether the target's machine told anything."""
        return isinstance(self.hosts[aim.name], Host)

    def doubts(self) -> list[str]:
        """What the gate will not be able to pass, as far as can be told before anything runs."""
        count = len(self.dense.task.validation)
        return [
            f"{aim.name}: {doubt}"
            for aim in self.aims
            for doubt in (
                _absent(aim, self.hosts[aim.name]),
                _too_few(aim, count),
                _unmeasured(aim),
            )
            if doubt
        ]

    def _build(self, aim: Aim) -> tuple[str, Stage[OnnxModel, Engine]]:
        """Where and how: on the device itself if engines are fitted to what builds them."""
        engine, options = aim.device.engine, aim.device.options()
        if aim.ssh and not options.portable and isinstance(runtime(engine, options), Fitted):
            host = self.host(aim)
            build = BuildThere(engine=engine, options=options, ssh=aim.ssh, host=host)
            return f" on {aim.name}", build
        return "", Build(engine=engine, options=options)

    def _maybe(
        self, name: str, stage: Stage[Checkpoint, Checkpoint] | None, source: Checkpoint
    ) -> Checkpoint:
        return self.runner.run(name, stage, source) if stage else source


def _absent(aim: Aim, host: Host | DeviceError) -> str:
    if isinstance(host, DeviceError):
        return str(host)
    unlike = aim.device.unlike(host)
    if not unlike:
        return ""
    if aim.ssh:
        return f"what is at {aim.ssh.host} is not the device ({unlike}); {OPEN}"
    return f"this machine is not the device ({unlike}): say where it is in target.ssh; {OPEN}"


def _too_few(aim: Aim, count: int) -> str:
    drop = aim.budget.top1_drop
    if drop is None or provable_drop(count) <= drop:
        return ""
    needed = samples_needed(drop) or "endless"
    return f"top1_drop {drop:g} needs about {needed} validation samples, there are {count}; {OPEN}"


def _unmeasured(aim: Aim) -> str:
    names = sorted(unmeasured(aim.device) & set(aim.budget.limits()))
    return f"{', '.join(names)}: not measured on a GPU; {OPEN}" if names else ""


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
    for aim in flow.aims:
        flow.host(aim)  # before the work, not after it
    files: dict[str, Path] = {"model.onnx": flow.exported().model, "plan.json": flow.pruned().plan}
    targets = []
    candidates = [Candidate(aim, flow.built_dense(aim), flow.built(aim)) for aim in flow.aims]
    for candidate, evidence in measured(flow.recipe.measure, flow.dense.task, candidates):
        terms = _terms(candidate, alone=len(candidates) == 1)
        files |= {terms.engine: candidate.shipped.path, terms.dense: candidate.dense.path}
        targets.append(judged(terms, evidence, candidate.shipped.path))
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


def _terms(candidate: Candidate, alone: bool) -> Terms:
    """The names of one target's files begin with its own where there are several."""
    aim, dense, shipped = candidate.aim, candidate.dense, candidate.shipped
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
