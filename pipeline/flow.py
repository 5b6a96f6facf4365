"""The whole flow, one screen:

task -> prune -> recover -> finetune -> export, simplify -> build -> measure -> judge -> bundle
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Checked, Checkpoint, Engine, OnnxModel, Pruned, Recovered
from pipeline.bundle import Judged, Terms, judged, write_bundle
from pipeline.digest import file_digest
from pipeline.measure import EnginePair, engine_file, score_engine, time_engines, weigh_engine
from pipeline.recipe import Recipe
from pipeline.report import markdown
from pipeline.stage import Stage
from pipeline.stages.build import Build
from pipeline.store import Runner, Store
from profiles.device import DeviceProfile
from profiles.host import this_host
from profiles.measurement import EngineEvidence, LatencyRun, Measurement
from profiles.spec import Spec

log = logging.getLogger("slimgate")

RUNTIMES = ("numpy", "onnx", "onnxruntime", "onnxsim", "torch", "torch-pruning", "torchvision")


@dataclass(frozen=True)
class Flow:
    """One recipe on one device. Each step asks the runner for the step before it."""

    recipe: Recipe
    device: DeviceProfile
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

    def built(self) -> Engine:
        return self.built_by(self._build())

    def built_by(self, build: Build) -> Engine:
        """The engine of any runtime, whatever the device's own is."""
        return self.runner.run("build", build, self.exported())

    def built_dense(self) -> Engine:
        return self.runner.run("build dense", self._build(), self.exported_dense())

    def _maybe(
        self, name: str, stage: Stage[Checkpoint, Checkpoint] | None, source: Checkpoint
    ) -> Checkpoint:
        return self.runner.run(name, stage, source) if stage else source

    def _build(self) -> Build:
        return Build(engine=self.device.engine, options=self.device.options())


def load_flow(recipe: Recipe, device: DeviceProfile, base: Path, runner: Runner) -> Flow:
    """The flow of a recipe whose paths are relative to `base`; loads data, builds nothing."""
    task = recipe.task.load(base)
    weights = base / recipe.task.weights if recipe.task.weights else None
    dense = Checkpoint(recipe.task.digest(base), task, weights, None)
    return Flow(recipe, device, dense, runner)


def measure(flow: Flow, dense: Engine, shipped: Engine) -> Measurement:
    """Evidence on both engines, gathered now: never from the store."""
    settings, device = flow.recipe.measure, flow.device
    log.info("measure: accuracy on %d samples ...", len(flow.dense.task.validation))

    def evidence(engine: Engine) -> EngineEvidence:
        report, file = engine.source.report(), engine_file(engine.path, device)
        unverified = engine.report().unverified
        return EngineEvidence(
            sha256=file_digest(engine.path),
            unverified=unverified,
            size_bytes=engine.path.stat().st_size,
            macs=report.macs,
            parameters=report.parameters,
            scores=() if unverified else score_engine(file, flow.dense.task),
            memory=() if unverified else weigh_engine(file, settings),
        )

    before, after = evidence(dense), evidence(shipped)
    runs: tuple[LatencyRun, ...] = ()
    if not (before.unverified or after.unverified):
        log.info("measure: latency in %d processes ...", settings.processes)
        pair = EnginePair(engine_file(dense.path, device), engine_file(shipped.path, device))
        runs = time_engines(pair, settings)
    return Measurement(
        device=flow.recipe.target.device,
        host=this_host(RUNTIMES),
        threads=device.threads,
        dense=before,
        shipped=after,
        latency=runs,
    )


def release(flow: Flow, store: Store, out: Path) -> Judged:
    """Run everything, judge, and write the bundle to `out`, whatever the verdict."""
    dense, shipped, pruned = flow.built_dense(), flow.built(), flow.pruned()
    measurement = measure(flow, dense, shipped)
    terms = Terms(
        device_name=flow.recipe.target.device,
        device=flow.device,
        budget=flow.recipe.target.budget,
        engine=shipped.path.name,
        dense=f"dense{dense.path.suffix}",
    )
    found = judged(terms, pruned.report(), measurement, file_digest(shipped.path))
    files = {
        terms.engine: shipped.path,
        terms.dense: dense.path,
        "model.onnx": shipped.source.model,
        "plan.json": pruned.plan,
    }
    exported = shipped.source.report()
    specs: dict[str, Spec] = {"recipe.json": flow.recipe, "export.json": exported}
    if flow.dense.task.preprocessing:
        specs["preprocess.json"] = flow.dense.task.preprocessing
    recovered = flow.recovered()
    repaired = recovered.report() if isinstance(recovered, Recovered) else None
    checked = flow.checked()
    page = markdown(found, repaired, checked.report() if checked else None, exported, store.records)
    with store.alone(f"write {out.resolve()}"):
        write_bundle(out, files, specs, found, page)
    return found
