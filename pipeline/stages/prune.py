"""Score every group on calibration samples, choose what to keep, and remove the rest."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.data.batches import batches
from pipeline.network.calibration import calibration_of_task
from pipeline.network.plan import PruningPlan, apply_plan, compose
from pipeline.network.run import compute_device
from pipeline.network.weights import write_weights
from pipeline.prune.allocators import Allocator
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.auto import AUTO_ALLOCATORS, AUTO_CRITERIA
from pipeline.prune.channel_counts import Limits, Widths, fault_of_widths, smallest_counts
from pipeline.prune.choose import Choice, Selection, choose
from pipeline.prune.criteria import Criterion
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.prunable import PrunableNetwork, find_prunable, refusals, verify
from pipeline.prune.report import prune_report
from pipeline.prune.staircase import with_staircases
from pipeline.prune.statistics import needs_of, statistics
from pipeline.prune.subject import Subject, subject_of
from pipeline.prune.trial_notes import TrialNotes, TrialsFile
from pipeline.prune.trials import choose_by_trial, trial_setup
from pipeline.scoring.collect import LayerStats
from pipeline.store.artifacts import Checkpoint, Pruned
from pipeline.store.files import write_json
from pipeline.store.reports import PruneReport, Trial
from pipeline.store.stage import Stage
from profiles.errors import ConfigError, StageError
from profiles.plugins import AUTO, choice
from profiles.spec import Fraction, read_spec

log = logging.getLogger("slimgate")


class Prune(Stage[Checkpoint, Pruned]):
    """Structured pruning: whole channels leave every layer that shares them."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    VERSION: ClassVar[int] = 9

    criterion: Annotated[
        Criterion | Literal["auto"], *choice("pipeline.prune.criteria", Criterion, auto=True)
    ] = AUTO
    """What scores the channels. `auto` tries several, and keeps the one whose repaired network is
    nearest to the dense one."""
    allocator: Annotated[
        Allocator | Literal["auto"], *choice("pipeline.prune.allocators", Allocator, auto=True)
    ] = AUTO
    """What says how many channels each group keeps; `auto` as for the criterion."""
    blocks: NonNegativeInt = 0
    """Residual blocks to remove whole before any channel: those that change their input least."""
    macs_ratio: Fraction | None = None
    """The MACs kept / dense MACs at most; the result is at or under it, as under the next two."""
    parameters: PositiveInt | None = None
    """The number of parameters at most."""
    size_mib: PositiveFloat | None = None
    """The size of the parameters in fp32 at most, MiB."""
    multiple: PositiveInt | None = None
    """Channel counts are multiples of this."""
    preferred_multiple: PositiveInt | None = None
    """Where `multiple` is not given, they are multiples of this, or of the largest of its halves
    that reaches the target; the device's `channel_multiple` when not given. Where a time says how
    much goes, and times of layers are known, the widths at which those fall take its place."""
    floor: PositiveInt | None = None
    """No layer keeps fewer channels; one multiple when not given."""
    floor_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """No layer keeps a smaller part of its channels."""
    samples: PositiveInt = 1000
    """The number of calibration samples, of every class alike, from the training data."""
    seed: NonNegativeInt = 0
    """What the choice of calibration samples depends on."""
    memory_gib: PositiveFloat | None = Field(default=None, exclude=True)
    """How much of what is computed of the samples is held in memory, and not in a temporary file;
    half of the free memory when not given. Less makes it slower, not other."""

    def resolved(self, channel_multiple: int) -> "Prune":
        """The same with the device's channel multiple where the recipe leaves it open."""
        if self.multiple is not None or self.preferred_multiple is not None:
            return self
        return self.model_copy(update={"preferred_multiple": channel_multiple})

    def has_target(self) -> bool:
        """Whether something says how much to prune: a target, blocks, or the allocator itself."""
        targets = (self.macs_ratio, self.parameters, self.size_mib)
        own = None if self.allocator == AUTO else self.allocator.knob()
        return self.blocks > 0 or any(target is not None for target in (*targets, own))

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        subject = self.subject(source)
        notes = TrialsFile(scratch / "trials", source.check_unchanged).notes()
        limits = self._limits(subject.dense.macs)
        chosen, trials = self.choose(subject, self.statistics(subject), limits, notes)
        log_report(self.write(subject, chosen, trials, out))

    def subject(self, source: Checkpoint) -> Subject:
        """What is pruned, and the samples that it is judged on."""
        device = compute_device()
        samples = calibration_of_task(source.task, self.samples, self.seed, device, self.memory_gib)
        return subject_of(source, samples, self.blocks)

    def statistics(self, subject: Subject) -> dict[str, LayerStats]:
        """What all that may choose has to know of each layer."""
        needs = needs_of(self._criteria(), self._allocators())
        return statistics(subject.prunable, subject.calibration, subject.source.task.loss, needs)

    def write(
        self, subject: Subject, chosen: Choice, trials: tuple[Trial, ...], out: Path
    ) -> PruneReport:
        """Prove that the choice removes what it says, and write the result into `out`."""
        verify(subject.prunable, chosen.plan, subject.example)
        earlier = _earlier_plan(subject.source)
        plan = compose(earlier, compose(subject.without_blocks, chosen.plan))
        chosen = replace(chosen, remarks=(*self._remarks(chosen), *chosen.remarks))
        report = prune_report(self.macs_ratio, subject.dense, subject.prunable, chosen, trials)
        write_json(out / "plan.json", plan)
        write_weights(apply_plan(subject.network, chosen.plan), out / "model.safetensors")
        write_json(out / "prune.json", report)
        return report

    def doubts(self, source: Checkpoint) -> tuple[str, ...]:
        """What is known before it runs: which groups are not pruned, a target beyond reach.

        Only where nothing has been pruned and no block goes: else the network is not known yet.
        """
        if source.teacher or self.blocks:
            return ()
        inputs, _ = next(batches(source.task.train, range(min(2, len(source.task.train))), 2))
        try:
            prunable = find_prunable(source.network(), torch.from_numpy(inputs))
            if self.has_target():
                self._widths(prunable, self._limits(prunable.macs))
        except StageError as error:
            return (f"prune: {error}",)
        return tuple(f"prune: {refusal}" for refusal in refusals(prunable))

    def load(self, source: Checkpoint, out: Path, key: str) -> Pruned:
        dense = source.teacher or source
        return Pruned(key, source.task, out / "model.safetensors", out / "plan.json", dense)

    def choose(
        self,
        subject: Subject,
        stats: Mapping[str, LayerStats],
        limits: Limits | None,
        notes: TrialNotes,
    ) -> tuple[Choice, tuple[Trial, ...]]:
        """The choice, and the trials it comes from where several selections were to be tried."""
        widths = self._widths(subject.prunable, limits)
        ways = product(self._allocators(), self._criteria())
        selections = [Selection(one, by, widths) for by, one in ways]
        if len(selections) == 1:
            return choose(subject.prunable, stats, selections[0], limits), ()
        loss = subject.source.task.loss
        setup = trial_setup(subject.network, subject.calibration, loss)
        if notes.finished:
            log.info("  resuming after %d trials", len(notes.finished))
        return choose_by_trial(subject.prunable, stats, selections, limits, setup, notes)

    def smallest_ratios(self, subject: Subject) -> tuple[float, ...]:
        """The part of the time, or of the MACs, that the narrowest network keeps.

        Of the widths that are liked best first, then of others.
        """
        found = []
        for widths in self.widths(subject.prunable):
            least = smallest_counts(subject.prunable.groups, widths)
            found.append(math.nextafter(subject.part_kept(least), 1))  # no less again, by rounding
        return tuple(found)

    def whole(self, subject: Subject) -> Choice:
        """All that there is."""
        prunable, loss = subject.prunable, subject.source.task.loss
        stats = statistics(prunable, subject.calibration, loss, Magnitude.needs)
        widths = Widths(self.multiple or self.preferred_multiple or 1)
        return choose(prunable, stats, Selection(Magnitude(), Uniform(), widths), Limits())

    def to(self, macs_ratio: float) -> "Prune":
        """The same to that part of the MACs."""
        return self.model_copy(update={"macs_ratio": macs_ratio})

    def by(self, selection: Selection) -> "Prune":
        """The same in one way alone."""
        ways = {"criterion": selection.criterion, "allocator": selection.allocator}
        return self.model_copy(update=ways)

    def _criteria(self) -> Sequence[Criterion]:
        return AUTO_CRITERIA if self.criterion == AUTO else (self.criterion,)

    def _allocators(self) -> Sequence[Allocator]:
        return AUTO_ALLOCATORS if self.allocator == AUTO else (self.allocator,)

    def _limits(self, macs_dense: int) -> Limits | None:
        """What the result may cost; None where the allocator's own ratios say it."""
        if not self.has_target():
            raise ConfigError(
                "nothing says how much to prune: set prune.macs_ratio = 0.5, for example, "
                "target.budget.macs_ratio, or the allocator's own ratios"
            )
        targets = (self.macs_ratio, self.parameters, self.size_mib)
        if self.allocator != AUTO and not any(target is not None for target in targets):
            return None if self.allocator.knob() is not None else Limits()
        return Limits(
            macs=None if self.macs_ratio is None else self.macs_ratio * macs_dense,
            parameters=self.parameters,
            size_bytes=None if self.size_mib is None else self.size_mib * 2**20,
        )

    def _widths(self, prunable: PrunableNetwork, limits: Limits | None) -> Widths:
        """The widths asked for; where the multiple is only preferred, those that reach the target.

        Raises StageError where none do.
        """
        if self.multiple is None and self.preferred_multiple is None:
            raise ConfigError("prune.multiple is not set: call resolved(channel_multiple) first")
        fault = ""
        for widths in self.widths(prunable):
            groups, model = prunable.groups, prunable.macs_model
            fault = fault_of_widths(limits, groups, model, widths) if limits else ""
            if not fault:
                return widths
        raise StageError(fault)

    def widths(self, prunable: PrunableNetwork) -> list[Widths]:
        """The widths that may be taken, the best first."""
        if prunable.macs_model.times:
            one = self.multiple or 1
            widths = Widths(one, self.floor or one, self.floor_ratio)
            return [with_staircases(widths, prunable.groups, prunable.macs_model)]
        multiples = [self.multiple] if self.multiple else _halves(self.preferred_multiple or 1)
        return [Widths(one, self.floor or one, self.floor_ratio) for one in multiples]

    def _remarks(self, chosen: Choice) -> tuple[str, ...]:
        """What is to be said of the widths that were taken."""
        widths, preferred = chosen.selection.widths, self.preferred_multiple
        taken = preferred if widths.staircases else widths.multiple
        if self.multiple or preferred in (None, taken):
            return ()
        return (
            f"channel counts are multiples of {taken}: those of {preferred}, which the device "
            "prefers, do not reach the target",
        )


def _halves(multiple: int) -> list[int]:
    """The number, its half, the half of that, as long as they are whole; at last 1."""
    found = [multiple]
    while found[-1] % 2 == 0:
        found.append(found[-1] // 2)
    return [*found, 1] if found[-1] > 1 else found


def _earlier_plan(source: Checkpoint) -> PruningPlan:
    """What earlier steps of a schedule removed."""
    return PruningPlan(layers={}) if source.plan is None else read_spec(source.plan, PruningPlan)


def log_report(report: PruneReport) -> None:
    """Say what was reached, and what there is to be said of it."""
    for remark in report.remarks:
        log.warning("  %s", remark)
    asked = "" if report.macs_ratio_asked is None else f", asked {report.macs_ratio_asked:.3f}"
    log.info(
        "  %s, %s: %.2f of %.2f MMACs (%.2f of %.2f MFLOPs), ratio %.3f%s",
        *(report.criterion, report.allocator, report.macs / 1e6, report.macs_dense / 1e6),
        *(2 * report.macs / 1e6, 2 * report.macs_dense / 1e6, report.macs_ratio, asked),
    )
