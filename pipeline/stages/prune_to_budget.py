"""Prune as little as a budget of measured figures allows: build, measure, and try again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, ValidationError

from pipeline.data.digest import value_digest
from pipeline.data.durable_files import SealedFile
from pipeline.measure.evidence import Candidate, measure_costs
from pipeline.measure.places import place_of
from pipeline.measure.sessions import Measure
from pipeline.prune.choose import Choice
from pipeline.prune.ratio_search import Point, best_of, next_ratio
from pipeline.prune.subject import Subject
from pipeline.prune.trial_notes import TrialNotes, TrialsFile
from pipeline.stages.build import Build
from pipeline.stages.build_there import BuildThere
from pipeline.stages.export import Export
from pipeline.stages.measured_target import BudgetedTarget
from pipeline.stages.prune import Prune, log_report
from pipeline.store.artifacts import Checkpoint, Engine, Pruned
from pipeline.store.files import write_json
from pipeline.store.reports import BuiltNetwork, Trial
from pipeline.store.stage import Stage
from profiles.errors import DeviceError, StageError
from profiles.limits import LIMITS, TIMES, cost_limits
from profiles.measurement import Measurement
from profiles.requirements import NO_SAMPLES
from profiles.spec import Spec

log = logging.getLogger("slimgate")

DENSE = "dense"
"""The name of the dense network, where others have digests."""
RESERVE = 0.01
"""How much more a sampled figure may be at its bound when the gate measures it anew, at least."""


class Share(Spec):
    """The part of a budget that a network takes, and by which limit."""

    value: NonNegativeFloat
    """The largest of figure / limit, by the gate's own bounds, and some more (RESERVE) where the
    figure is sampled; at most 1 meets the budget."""
    target: str
    limit: str
    bound: float
    most: PositiveFloat

    def __str__(self) -> str:
        limit = LIMITS[self.limit]
        unit = f" {limit.unit}" if limit.unit else ""
        word = "at least" if limit.is_minimum else "at most"
        bound, most = (_shown(value * limit.scale) for value in (self.bound, self.most))
        return f"{self.target}: {limit.label}, {word} {most}{unit}, has its bound at {bound}"


def _shown(value: float) -> str:
    """Counts whole, and four digits of what is measured."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


class _Measured(Spec):
    """What lies in the file that a killed search goes on from: shares by the plan's digest, of
    every target's budget in turn."""

    shares: dict[str, tuple[Share, ...]]


@dataclass(frozen=True)
class Tried:
    """A way to prune that was built and measured."""

    choice: Choice
    macs_ratio: float
    point: Point
    share: Share


class PruneToBudget(Stage[Checkpoint, Pruned]):
    """Whole networks are built and measured on the targets until one just meets all budgets.

    What times depend on is the shape of a network alone, so nothing is trained or repaired for it.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = tuple(
        dict.fromkeys((*Prune.LIBRARIES, *Export.LIBRARIES))
    )

    prune: Prune
    export: Export
    measure: Measure
    targets: tuple[BudgetedTarget, ...]

    def environment(self) -> dict[str, str]:
        found = super().environment()
        for target in self.targets:
            found |= {f"{target.name}: {key}": of for key, of in target.environment().items()}
        return {**found, "prune": str(self.prune.VERSION), "export": str(self.export.VERSION)}

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=scratch) as folder:
            bench = _Bench(self, source, Path(folder), SealedFile(scratch / "measured"))
            if noted := bench.noted():
                log.info("  resuming after %d networks", len(noted))
            shares = bench.shares(DENSE, source)
            dense = _largest(shares)
            log.info("  the dense network takes %.3f of the budget (%s)", dense.value, dense)
            subject = self.prune.subject(source)
            if dense.value <= 1:
                remark = f"nothing was pruned: the dense network meets the budget ({dense})"
                whole = replace(self.prune.whole(subject), remarks=(remark,))
                log_report(self.prune.write(subject, whole, (), out))
                return
            # A device that is fast enough already does not say what goes.
            over = [one for one, share in zip(self.targets, shares, strict=True) if share.value > 1]
            subject = subject.timed([times for one in over if (times := one.layer_times())])
            notes = TrialsFile(scratch / "trials", source.check_unchanged).notes()
            tried, trials = self._search(subject, bench, dense, notes)
            best = best_of([one.point for one in tried])
            if best is None:
                bench.notes.path.unlink(missing_ok=True)  # another time the machine may be faster
                raise StageError(_beyond_reach(dense, tried))
            choice = next(one.choice for one in tried if one.point is best)
            report = self.prune.write(subject, choice, trials, out)
            report = report.model_copy(update={"built": _built(dense, tried)})
            write_json(out / "prune.json", report)
            log_report(report)

    def load(self, source: Checkpoint, out: Path, key: str) -> Pruned:
        return self.prune.load(source, out, key)

    def _search(
        self, subject: Subject, bench: "_Bench", dense: Share, notes: TrialNotes
    ) -> tuple[list[Tried], tuple[Trial, ...]]:
        """The networks that were tried, and the trials that said how they are pruned."""
        stats, floors = self.prune.statistics(subject), self.prune.smallest_ratios(subject)
        whole = Point(1.0, dense.value)
        tried: list[Tried] = []
        way, trials = self.prune, tuple[Trial, ...]()
        while ratio := next_ratio([whole, *(one.point for one in tried)], floors):
            choice, made = way.choose(subject, stats, subject.limits(ratio), notes)
            if made:  # the way that is nearest at the first guess is gone to the end
                way, trials = way.by(choice.selection), made
            kept = subject.part_kept(choice.counts())
            if any(one.point.ratio == kept for one in tried):
                break  # no width lies between those that were tried
            name = value_digest(choice.plan.model_dump(mode="json"))
            share = _largest(bench.shares(name, bench.candidate(name, way, subject, choice)))
            macs = subject.prunable.macs_at(choice.counts()) / subject.dense.macs
            log.info("  %.3f of the MACs takes %.3f of the budget (%s)", macs, share.value, share)
            tried.append(Tried(choice, macs, Point(kept, share.value), share))
        return tried, trials


@dataclass(frozen=True)
class _Bench:
    """Builds networks for all targets and measures them there, beside the dense one."""

    stage: PruneToBudget
    source: Checkpoint
    folder: Path
    notes: SealedFile

    def candidate(self, name: str, way: Prune, subject: Subject, choice: Choice) -> Pruned:
        """The pruned network as the stage would leave it."""
        folder = self.folder / name
        folder.mkdir()
        way.write(subject, choice, (), folder)
        return way.load(self.source, folder, name)

    def shares(self, name: str, network: Checkpoint) -> tuple[Share, ...]:
        """The share of each target's budget that the network takes, as noted or measured now.

        Raises StageError where the machine is too noisy to tell, or cannot be measured.
        """
        known = self.noted()
        if name not in known:
            numbered = enumerate(self.stage.targets)
            known[name] = tuple(
                self._share_on(target, f"{n}", name, network) for n, target in numbered
            )
            self.source.check_unchanged()
            self.notes.write(_Measured(shares=known).model_dump_json().encode())
        return known[name]

    def noted(self) -> dict[str, tuple[Share, ...]]:
        """What has been measured, by the names of networks."""
        raw = self.notes.read("all is measured again")
        try:
            return {} if raw is None else dict(_Measured.model_validate_json(raw).shares)
        except ValidationError:  # noted by another version of slimgate
            return {}

    def _share_on(
        self, target: BudgetedTarget, number: str, name: str, network: Checkpoint
    ) -> Share:
        dense = self._engine(target.build, number, DENSE, self.source)
        shipped = self._engine(target.build, number, name, network)
        candidate = Candidate(target.resolved(), dense, shipped)
        with place_of(target.ssh) as place:
            if place.host() != target.host:
                raise DeviceError(f"{place.name}: it was changed since the run began; run again")
            measured = measure_costs(place, self.stage.measure, candidate)
        return largest_share(measured, target)

    def _engine(
        self, build: Build | BuildThere, number: str, name: str, network: Checkpoint
    ) -> Engine:
        """Built, where that has not been done yet, for the target of that number."""
        place, exported = self.folder / f"{name} {number}", self.folder / f"{name} model"
        model = self.stage.export.load(network, exported, name)
        if not exported.exists():
            exported.mkdir()
            self.stage.export.run(network, exported, self.folder)
        if not place.exists():
            place.mkdir()
            build.make(model, place)
        return build.load(model, place, name)


def largest_share(measured: Measurement, target: BudgetedTarget) -> Share:
    """The largest share that the costs of the shipped engine take of the target's budget.

    What is no time may lack evidence, and then says nothing. Raises StageError for times that the
    gate would not take either.
    """
    found = []
    for name, most in cost_limits(target.device, target.budget).items():
        limit = LIMITS[name]
        figure, fault = limit.estimate(measured), limit.requirement.fault(measured)
        value = limit.share(figure, most)
        bound = figure.lower if limit.is_minimum else figure.upper
        if limit.requirement is not NO_SAMPLES:
            value *= 1 + _reserve(figure.measured, bound)
        if not fault and not isfinite(value):
            fault = "no usable figure; measure again"
        if fault and name in TIMES:
            raise StageError(
                f"{target.name}: {limit.label}: {fault}, or set prune.macs_ratio, which needs no "
                "measuring"
            )
        if fault:
            log.warning("  %s: %s: %s; it is not pruned to", target.name, limit.label, fault)
            continue
        found.append(Share(value=value, target=target.name, limit=name, bound=bound, most=most))
    if not found:
        raise StageError(f"{target.name}: nothing of its budget could be measured")
    return _largest(found)


def _largest(shares: Sequence[Share]) -> Share:
    return max(shares, key=lambda share: share.value)


def _reserve(measured: float, bound: float) -> float:
    """RESERVE, or twice the distance of a figure's bound where that is more."""
    return max(RESERVE, 2 * abs(bound / measured - 1)) if measured else RESERVE


def _built(dense: Share, tried: Sequence[Tried]) -> tuple[BuiltNetwork, ...]:
    shares = [(1.0, dense), *((one.macs_ratio, one.share) for one in tried)]
    return tuple(
        BuiltNetwork(macs_ratio=ratio, share=share.value, largest=str(share))
        for ratio, share in shares
    )


def _beyond_reach(dense: Share, tried: Sequence[Tried]) -> str:
    if not tried:
        return (
            f"the dense network takes {dense.value:.3f} of the budget ({dense}), and no width that "
            "prune allows takes less time: set a smaller prune.floor or prune.multiple, or a "
            "larger limit"
        )
    best = min(tried, key=lambda one: one.share.value)
    return (
        f"no network that was tried meets the budget: the nearest keeps {best.macs_ratio:.3f} of "
        f"the MACs and takes {best.share.value:.3f} of it ({best.share}), the dense one "
        f"{dense.value:.3f}; set a larger limit, another precision, or a smaller prune.floor"
    )
