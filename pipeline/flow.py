"""The whole flow, one screen:

task -> prune -> recover -> finetune -> export, simplify -> build -> measure -> judge -> bundle
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from exporters.exporter import HostFittedExporter, runtime
from pipeline.measure.all_targets import Hosts, measured
from pipeline.measure.evidence import Candidate
from pipeline.measure.resolved_target import ResolvedTarget
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
    targets: tuple[ResolvedTarget, ...]
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

    def built(self, target: ResolvedTarget) -> Engine:
        where, build = self._build(target)
        return self.runner.run(f"build{where}", build, self.exported())

    def built_by(self, build: Build) -> Engine:
        """The engine of any runtime, whatever the target's own is."""
        return self.runner.run("build", build, self.exported())

    def built_dense(self, target: ResolvedTarget) -> Engine:
        where, build = self._build(target)
        return self.runner.run(f"build dense{where}", build, self.exported_dense())

    def host(self, target: ResolvedTarget) -> Host:
        """What the target's machine told of itself. Raises DeviceError where it did not."""
        found = self.hosts[target.name]
        if isinstance(found, DeviceError):
            raise found
        return found

    def answers(self, target: ResolvedTarget) -> bool:
        """Whether the target's machine told anything."""
        return isinstance(self.hosts[target.name], Host)

    def doubts(self) -> list[str]:
        """What the gate will not be able to pass, as far as can be told before anything runs."""
        count = len(self.dense.task.validation)
        return [
            f"{target.name}: {doubt}"
            for target in self.targets
            for doubt in (
                _absent(target, self.hosts[target.name]),
                _too_few(target, count),
                _unmeasured(target),
            )
            if doubt
        ]

    def _build(self, target: ResolvedTarget) -> tuple[str, Stage[OnnxModel, Engine]]:
        """Where and how: on the device itself if engines are fitted to what builds them."""
        engine, options = target.device.engine, target.device.options()
        if (
            target.ssh
            and not options.portable
            and isinstance(runtime(engine, options), HostFittedExporter)
        ):
            host = self.host(target)
            build = BuildThere(engine=engine, options=options, ssh=target.ssh, host=host)
            return f" on {target.name}", build
        return "", Build(engine=engine, options=options)

    def _maybe(
        self, name: str, stage: Stage[Checkpoint, Checkpoint] | None, source: Checkpoint
    ) -> Checkpoint:
        return self.runner.run(name, stage, source) if stage else source


def _absent(target: ResolvedTarget, host: Host | DeviceError) -> str:
    if isinstance(host, DeviceError):
        return str(host)
    unlike = target.device.unlike(host)
    if not unlike:
        return ""
    if target.ssh:
        return f"what is at {target.ssh.host} is not the device ({unlike}); {OPEN}"
    return f"this machine is not the device ({unlike}): say where it is in target.ssh; {OPEN}"


def _too_few(target: ResolvedTarget, count: int) -> str:
    drop = target.budget.top1_drop
    if drop is None or provable_drop(count) <= drop:
        return ""
    needed = samples_needed(drop) or "endless"
    return f"top1_drop {drop:g} needs about {needed} validation samples, there are {count}; {OPEN}"


def _unmeasured(target: ResolvedTarget) -> str:
    names = sorted(unmeasured(target.device) & set(target.budget.limits()))
    return f"{', '.join(names)}: not measured on a GPU; {OPEN}" if names else ""


def load_flow(
    recipe: Recipe, targets: tuple[ResolvedTarget, ...], base: Path, runner: Runner
) -> Flow:
    """The flow of a recipe whose paths are relative to `base`; loads data, builds nothing."""
    task = recipe.task.load(base)
    weights = base / recipe.task.weights if recipe.task.weights else None
    dense = Checkpoint(recipe.task.digest(base), task, weights, None)
    return Flow(recipe, targets, dense, runner)


def release(flow: Flow, store: Store, out: Path) -> Release:
    """Run everything, judge, and write the bundle to `out`, whatever the verdict."""
    for doubt in flow.doubts():
        log.warning(doubt)
    for target in flow.targets:
        flow.host(target)  # before the work, not after it
    files: dict[str, Path] = {"model.onnx": flow.exported().model, "plan.json": flow.pruned().plan}
    released = []
    candidates = [
        Candidate(target, flow.built_dense(target), flow.built(target)) for target in flow.targets
    ]
    for candidate, evidence in measured(flow.recipe.measure, flow.dense.task, candidates):
        terms = _terms(candidate, alone=len(candidates) == 1)
        files |= {terms.engine: candidate.shipped.path, terms.dense: candidate.dense.path}
        released.append(judged(terms, evidence, candidate.shipped.path))
    found = Release(flow.pruned().report(), tuple(released))
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
    target, dense, shipped = candidate.target, candidate.dense, candidate.shipped
    prefix = "" if alone else f"{target.name}-"
    return Terms(
        device_name=target.name,
        device=target.device,
        ssh=target.ssh and target.ssh.model_copy(update={"key_file": None}),
        budget=target.budget,
        engine=prefix + shipped.path.name,
        dense=f"{prefix}dense{''.join(dense.path.suffixes)}",
        measurement=f"{prefix}measurement.json",
    )
