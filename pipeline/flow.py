"""The whole flow, one screen:

task -> prune -> recover -> finetune -> export, simplify -> build -> measure -> judge -> bundle
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from exporters.exporter import HostFittedExporter, runtime
from pipeline.measure.all_targets import Hosts, measure_all
from pipeline.measure.evidence import Candidate
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.recipe import Recipe
from pipeline.release.bundle import Release, judge_target, write_bundle
from pipeline.release.terms import Terms
from pipeline.report.content import ReportContent
from pipeline.report.html import page
from pipeline.report.text import markdown
from pipeline.stages.build import Build
from pipeline.stages.build_there import BuildThere
from pipeline.stages.engine_stage import EngineStage
from pipeline.stages.measured_target import MeasuredTarget, budgeted, measured_target
from pipeline.stages.prune_to_budget import PruneToBudget
from pipeline.stages.time_layers import TimeLayers
from pipeline.store.artifacts import (
    Checked,
    Checkpoint,
    Engine,
    OnnxModel,
    Pruned,
    Recovered,
    TimedLayers,
)
from pipeline.store.runner import Runner
from pipeline.store.stage import Stage
from pipeline.store.store import Store
from profiles.errors import DeviceError
from profiles.host import Host
from profiles.limits import cost_limits, not_measured_on
from profiles.spec import Spec
from profiles.statistics import provable_drop, samples_needed

log = logging.getLogger("slimgate")

INCONCLUSIVE = "it will be inconclusive"


@dataclass(frozen=True)
class Flow:
    """One recipe and its targets. Each step asks the runner for the step before it."""

    recipe: Recipe
    targets: tuple[ResolvedTarget, ...]
    dense: Checkpoint
    runner: Runner
    hosts: Hosts = field(default_factory=dict)
    """The targets' machines; steps before the engine do not need them."""

    def pruned(self) -> Pruned:
        """The network after the last step of the schedule, or as large as the budgets allow."""
        if not self.recipe.prune.has_target():
            return self.runner.run("prune", self._prune_to_budget(), self.dense)
        *steps, last = self.recipe.prune_steps()
        source = self.dense
        for number, prune in enumerate(steps, 1):
            pruned = self.runner.run(f"prune {number}", prune, source)
            recovered = self._run_if_set(f"recover {number}", self.recipe.recover, pruned)
            source = self._run_if_set(
                f"finetune {number}", self.recipe.finetune_between_steps(), recovered
            )
        return self.runner.run("prune", last, source)

    def recovered(self) -> Checkpoint:
        return self._run_if_set("recover", self.recipe.recover, self.pruned())

    def finetuned(self) -> Checkpoint:
        return self._run_if_set("finetune", self.recipe.finetune, self.recovered())

    def checked(self) -> Checked | None:
        check = self.recipe.check()
        return self.runner.run("check", check, self.pruned()) if check else None

    def exported(self) -> OnnxModel:
        return self.runner.run("export", self.recipe.export, self.finetuned())

    def exported_dense(self) -> OnnxModel:
        return self.runner.run("export dense", self.recipe.export, self.dense)

    def built(self, target: ResolvedTarget) -> Engine:
        where, build = self._build(target)
        return self._engine(f"build{where}", build, self.exported())

    def built_by(self, build: Build) -> Engine:
        """The engine of any runtime, whatever the target's own is."""
        return self._engine("build", build, self.exported())

    def built_dense(self, target: ResolvedTarget) -> Engine:
        where, build = self._build(target)
        return self._engine(f"build dense{where}", build, self.exported_dense())

    def timed_layers(self, target: ResolvedTarget) -> TimedLayers:
        """The times of the dense network's layers alone, for a target that times them.

        Raises DeviceError where the target does not answer as itself.
        """
        stage = TimeLayers(target=self._measured(target).for_layers())
        return self.runner.run(f"time layers {target.name}", stage, self.dense)

    def host(self, target: ResolvedTarget) -> Host:
        """The target's machine. Raises DeviceError where it did not answer."""
        found = self.hosts[target.name]
        if isinstance(found, DeviceError):
            raise found
        return found

    def is_reachable(self, target: ResolvedTarget) -> bool:
        """Whether the target's machine answered."""
        return isinstance(self.hosts[target.name], Host)

    def warnings(self) -> list[str]:
        """Why the gate will not be able to pass, as far as is known before anything runs."""
        count = len(self.dense.task.validation)
        return [
            f"{target.name}: {warning}"
            for target in self.targets
            for warning in (
                _machine_warning(target, self.hosts[target.name]),
                _samples_warning(target, count),
                _gpu_warning(target),
            )
            if warning
        ]

    def _engine(self, name: str, build: EngineStage, model: OnnxModel) -> Engine:
        """The engine; below fp32 only of a runtime that is right on this model at fp32."""
        if full := build.at_fp32():
            self.runner.run(f"{name} at fp32", full, model)
        return self.runner.run(name, build, model)

    def _build(self, target: ResolvedTarget) -> tuple[str, Build | BuildThere]:
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

    def _prune_to_budget(self) -> PruneToBudget:
        """Raises DeviceError where a target that costs anything does not answer as itself."""
        recipe = self.recipe
        targets = [target for target in self.targets if cost_limits(target.device, target.budget)]
        found = [budgeted(target, self._measured(target)) for target in targets]
        # Widths are those of all devices that times are asked of, or multiples.
        if all(target.times_layers() for target in targets if target.times()):
            found = [
                one.with_layers(self.timed_layers(target)) if target.times() else one
                for one, target in zip(found, targets, strict=True)
            ]
        return PruneToBudget(
            prune=recipe.prune, export=recipe.export, measure=recipe.measure, targets=tuple(found)
        )

    def _measured(self, target: ResolvedTarget) -> MeasuredTarget:
        return measured_target(target, self.host(target), self._build(target)[1])

    def _run_if_set(
        self, name: str, stage: Stage[Checkpoint, Checkpoint] | None, source: Checkpoint
    ) -> Checkpoint:
        return self.runner.run(name, stage, source) if stage else source


def _machine_warning(target: ResolvedTarget, host: Host | DeviceError) -> str:
    if isinstance(host, DeviceError):
        return str(host)
    mismatch = target.device.mismatch(host)
    if not mismatch:
        return ""
    if target.ssh:
        return f"what is at {target.ssh.host} is not the device ({mismatch}); {INCONCLUSIVE}"
    return (
        f"this machine is not the device ({mismatch}): say where it is in target.ssh; "
        f"{INCONCLUSIVE}"
    )


def _samples_warning(target: ResolvedTarget, count: int) -> str:
    drop = target.budget.top1_drop
    if drop is None or provable_drop(count) <= drop:
        return ""
    needed = samples_needed(drop)
    samples = (
        f"about {needed} validation samples" if needed else "more validation samples than exist"
    )
    return f"top1_drop {drop:g} needs {samples}, there are {count}; {INCONCLUSIVE}"


def _gpu_warning(target: ResolvedTarget) -> str:
    names = sorted(not_measured_on(target.device) & set(target.budget.limits()))
    return f"{', '.join(names)}: not measured on a GPU; {INCONCLUSIVE}" if names else ""


def load_flow(
    recipe: Recipe, targets: tuple[ResolvedTarget, ...], base: Path, runner: Runner
) -> Flow:
    """The flow of a recipe whose paths are relative to `base`; loads data, builds nothing."""
    origin = recipe.task.origin(base)
    task = recipe.task.load(base)
    weights = base / recipe.task.weights if recipe.task.weights else None
    dense = Checkpoint(origin.key, task, weights, None, origin=origin)
    return Flow(recipe, targets, dense, runner)


def release(flow: Flow, store: Store, out: Path) -> Release:
    """Run everything, judge, and write the bundle to `out`, whatever the verdict."""
    for warning in flow.warnings():
        log.warning(warning)
    for target in flow.targets:
        flow.host(target)  # before the work, not after it
    files: dict[str, Path] = {"model.onnx": flow.exported().model, "plan.json": flow.pruned().plan}
    released = []
    candidates = [
        Candidate(target, flow.built_dense(target), flow.built(target)) for target in flow.targets
    ]
    checked = flow.checked()  # before measuring, whose evidence an error here would lose
    for candidate, evidence in measure_all(flow.recipe.measure, flow.dense.task, candidates):
        terms = _terms(candidate, alone=len(candidates) == 1)
        files |= {terms.engine: candidate.shipped.path, terms.dense: candidate.dense.path}
        released.append(judge_target(terms, evidence, candidate.shipped.path))
    flow.dense.check_unchanged()  # measuring has read the validation data
    found = Release(flow.pruned().report(), tuple(released))
    exported = flow.exported().report()
    specs: dict[str, Spec] = {"recipe.json": flow.recipe, "export.json": exported}
    if flow.dense.task.preprocessing:
        specs["preprocess.json"] = flow.dense.task.preprocessing
    recovered = flow.recovered()
    repaired = recovered.report() if isinstance(recovered, Recovered) else None
    content = ReportContent(
        found, repaired, checked.report() if checked else None, exported, tuple(store.records)
    )
    pages = {"report.md": markdown(content), "report.html": page(content)}
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
