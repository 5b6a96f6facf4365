"""Score every group on calibration samples, choose what to keep, and remove the rest."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from pipeline.network.calibration import Calibration, calibration_of
from pipeline.network.costs import macs_model
from pipeline.network.groups import Groups, find_groups
from pipeline.network.plan import PruningPlan, apply_plan, compose
from pipeline.network.run import compute_device, outputs_of
from pipeline.network.weights import write_weights
from pipeline.prune.allocators import Allocator
from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import (
    SCORED_AT_A_TIME,
    Subject,
    Widths,
    choose,
    needs_of,
    statistics,
    subject_of,
    verify,
)
from pipeline.prune.criteria import Criterion, reconstruction
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.trials import Picked, course_of, pick
from pipeline.scoring.residual_blocks import block_scores
from pipeline.store.artifacts import Checkpoint, Pruned
from pipeline.store.manifest import write_json
from pipeline.store.reports import GroupReport, PruneReport
from pipeline.store.stage import Stage
from profiles.errors import ConfigError, StageError
from profiles.plugins import AUTO, choice, name_of
from profiles.spec import Fraction, read_spec

log = logging.getLogger("slimgate")

AUTO_CRITERIA = (Magnitude(), Pro(), reconstruction.Reconstruction(), Taylor())
AUTO_ALLOCATORS = (by_reconstruction.Reconstruction(), Uniform())


class Prune(Stage[Checkpoint, Pruned]):
    """Structured pruning: whole channels leave every layer that shares them."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "numpy")
    VERSION: ClassVar[int] = 2

    criterion: Annotated[
        Criterion | Literal["auto"], *choice("pipeline.prune.criteria", Criterion, auto=True)
    ] = AUTO
    """`auto` tries several and keeps the one whose repaired network is nearest to the dense one."""
    allocator: Annotated[
        Allocator | Literal["auto"], *choice("pipeline.prune.allocators", Allocator, auto=True)
    ] = AUTO
    blocks: NonNegativeInt = 0
    """Residual blocks to remove whole before any channel: those that change their input least."""
    macs_ratio: Fraction | None = None
    """Target: MACs kept / dense MACs. The result is at or under it, as under the next two."""
    parameters: PositiveInt | None = None
    size_mib: PositiveFloat | None = None
    """Of the parameters in fp32."""
    multiple: PositiveInt | None = None
    """Channel counts are multiples of this; the device's `channel_multiple` when not given."""
    floor: PositiveInt | None = None
    """No layer keeps fewer channels; one multiple when not given."""
    floor_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """No layer keeps a smaller part of its channels."""
    samples: PositiveInt = 1000
    """Calibration samples, of every class alike, from the training data."""
    seed: NonNegativeInt = 0

    def resolved(self, channel_multiple: int) -> "Prune":
        """The same with the device's channel multiple where the recipe leaves it open."""
        multiple = self.multiple or channel_multiple
        return self.model_copy(update={"multiple": multiple, "floor": self.floor or multiple})

    def says_how_much(self) -> bool:
        """Whether there is a target, or an allocator with ratios of its own."""
        targets = (self.macs_ratio, self.parameters, self.size_mib)
        own = None if self.allocator == AUTO else self.allocator.knob()
        return self.blocks > 0 or any(target is not None for target in (*targets, own))

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        device = compute_device()
        network = source.network().to(device)
        calibration = calibration_of(source.task, self.samples, self.seed, device)
        example = calibration.inputs[:1]
        outputs_of(network, example)
        shallow = self._without_blocks(network, calibration)
        network = apply_plan(network, shallow)
        subject = subject_of(network, example)
        whole, macs_dense = subject.found, subject.macs
        if source.teacher or shallow.skipped:
            dense = (source.teacher or source).network().to(device)
            whole, macs_dense = (
                find_groups(dense, example),
                macs_model(dense, example).total((), {}),
            )
            subject = Subject(
                network, composable(subject.found, whole), subject.model, subject.macs
            )
        if not subject.found.groups:
            raise StageError("the network has nothing more to prune: use fewer steps")
        criteria, allocators = self._criteria(), self._allocators()
        loss = source.task.loss
        stats = statistics(subject, calibration, loss, needs_of(criteria, allocators))
        limits, widths = self._limits(macs_dense), self._widths()
        if len(criteria) + len(allocators) > 2:
            course = course_of(network, calibration, loss)
            picked = pick(subject, stats, course, criteria, allocators, limits, widths)
        else:
            chosen = choose(subject, stats, criteria[0], allocators[0], limits, widths)
            picked = Picked(criteria[0], allocators[0], chosen, ())
        plan = picked.choice.plan
        verify(subject, plan, example)
        before = (
            PruningPlan(layers={}) if source.plan is None else read_spec(source.plan, PruningPlan)
        )
        write_json(out / "plan.json", compose(before, compose(shallow, plan)))
        write_weights(apply_plan(network, plan), out / "model.safetensors")
        report = _report(self.macs_ratio, whole, subject, macs_dense, picked)
        write_json(out / "prune.json", report)
        for remark in report.remarks:
            log.warning("  %s", remark)
        asked = f", asked {self.macs_ratio:.3f}" if self.macs_ratio else ""
        log.info(
            "  %s, %s: %.2f of %.2f MMACs (%.2f of %.2f MFLOPs), ratio %.3f%s",
            *(report.criterion, report.allocator, report.macs / 1e6, report.macs_dense / 1e6),
            *(2 * report.macs / 1e6, 2 * report.macs_dense / 1e6, report.macs_ratio, asked),
        )

    def load(self, source: Checkpoint, out: Path, key: str) -> Pruned:
        dense = source.teacher or source
        return Pruned(key, source.task, out / "model.safetensors", out / "plan.json", dense)

    def _criteria(self) -> Sequence[Criterion]:
        return AUTO_CRITERIA if self.criterion == AUTO else (self.criterion,)

    def _allocators(self) -> Sequence[Allocator]:
        return AUTO_ALLOCATORS if self.allocator == AUTO else (self.allocator,)

    def _limits(self, macs_dense: int) -> Limits | None:
        if not self.says_how_much():
            raise ConfigError(
                "how much to prune? set prune.macs_ratio, budget.macs_ratio, "
                "or the allocator's own ratios"
            )
        targets = (self.macs_ratio, self.parameters, self.size_mib)
        if self.allocator != AUTO and not any(target is not None for target in targets):
            return None if self.allocator.knob() is not None else Limits()
        return Limits(
            macs=None if self.macs_ratio is None else self.macs_ratio * macs_dense,
            parameters=self.parameters,
            size=None if self.size_mib is None else self.size_mib * 2**20,
        )

    def _without_blocks(self, network: nn.Module, calibration: Calibration) -> PruningPlan:
        """The plan that skips the residual blocks with the lowest scores."""
        if not self.blocks:
            return PruningPlan(layers={})
        feeds = ((x.cpu().numpy(), y) for x, y in calibration.batches(SCORED_AT_A_TIME))
        scores = block_scores(network, feeds)
        if self.blocks > len(scores):
            raise ConfigError(
                f"prune.blocks: {self.blocks} residual blocks to remove, but the identity can "
                f"take the place of {len(scores)} ({', '.join(scores) or 'none'})"
            )
        chosen = sorted(scores, key=lambda name: scores[name])[: self.blocks]
        return PruningPlan(layers={}, skipped=tuple(name for name in scores if name in chosen))

    def _widths(self) -> Widths:
        if self.multiple is None or self.floor is None:
            raise ConfigError(
                "prune.multiple and prune.floor are not set: resolve the recipe first"
            )
        return Widths(self.multiple, self.floor, self.floor_ratio)


def composable(found: Groups, dense: Groups) -> Groups:
    """Without the groups whose units pruning has changed: one channel left in each group of a
    grouped convolution is depthwise, and no plan of the dense network takes its groups away.
    """
    width = {group.name: group.channels // group.size for group in dense.groups}
    same = {g.name for g in found.groups if width.get(g.name) == g.channels // g.size}
    refused = {g.name: "its units are not those of the dense network" for g in found.groups}
    return Groups(
        tuple(group for group in found.groups if group.name in same),
        {**found.refused, **{n: why for n, why in refused.items() if n not in same}},
    )


def _report(
    asked: float | None, whole: Groups, subject: Subject, macs_dense: int, picked: Picked
) -> PruneReport:
    choice = picked.choice
    kept = subject.model.total(subject.found.groups, choice.counts())
    sizes = {group.name: group.size for group in whole.groups}
    groups = {}
    for name, chosen in choice.units.items():
        scores = choice.scores[name]
        removed = np.delete(scores, chosen)
        groups[name] = GroupReport(
            units=sizes[name],
            kept=len(chosen),
            lowest_kept=float(scores[chosen].min()),
            highest_removed=float(removed.max()) if len(removed) else None,
        )
    return PruneReport(
        criterion=name_of(picked.criterion),
        allocator=name_of(picked.allocator),
        macs_ratio_asked=asked,
        macs_ratio=kept / macs_dense,
        macs_dense=macs_dense,
        macs=kept,
        groups=groups,
        refused=dict(subject.found.refused),
        trials=picked.trials,
        remarks=choice.remarks,
    )
