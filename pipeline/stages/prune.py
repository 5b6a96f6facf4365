"""Score every group on calibration samples, choose what to keep, and remove the rest."""

import logging
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from pipeline.allocation import Counts, MacsModel, counts_at, counts_for_macs, macs_model
from pipeline.allocators import Allocator
from pipeline.allocators.uniform import Uniform
from pipeline.artifact import Checkpoint, GroupReport, Pruned, PruneReport
from pipeline.criteria import Criterion, group_scores
from pipeline.criteria.pro import Pro
from pipeline.data import balanced_indices, batches
from pipeline.evaluate import compute_device, outputs_of
from pipeline.groups import Group, Groups, fault, find_groups, make_plan
from pipeline.options import choice
from pipeline.plan import apply_plan
from pipeline.stage import Stage
from pipeline.stats import collect
from pipeline.store import write_json
from pipeline.task import Task
from pipeline.weights import write_weights
from profiles.device import Fraction
from profiles.errors import ConfigError, StageError

log = logging.getLogger("slimgate")


class Prune(Stage[Checkpoint, Pruned]):
    """Structured pruning: whole channels leave every layer that shares them."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "numpy")

    criterion: Annotated[Criterion, *choice("pipeline.criteria", Criterion)] = Pro()
    allocator: Annotated[Allocator, *choice("pipeline.allocators", Allocator)] = Uniform()
    macs_ratio: Fraction | None = None
    """Target: MACs kept / dense MACs. The result is at or under it."""
    multiple: PositiveInt | None = None
    """Channel counts are multiples of this; the device's `channel_multiple` when not given."""
    floor: PositiveInt | None = None
    """No layer keeps fewer channels; one multiple when not given."""
    samples: PositiveInt = 512
    """Calibration samples, of every class alike, from the training data."""
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = 0

    def resolved(self, channel_multiple: int) -> "Prune":
        """The same with the device's channel multiple where the recipe leaves it open."""
        multiple = self.multiple or channel_multiple
        return self.model_copy(update={"multiple": multiple, "floor": self.floor or multiple})

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        network = source.network().to(compute_device())
        example = _example(source.task).to(compute_device())
        outputs_of(network, example)
        found = find_groups(network, example)
        if not found.groups:
            reasons = "; ".join(f"{name}: {why}" for name, why in found.refused.items())
            raise StageError(f"the network has nothing to prune ({reasons or 'no group found'})")
        model = macs_model(network, example)
        counts = self._counts(found, model)
        units = self._best_units(source.task, network, found, counts)
        plan = make_plan(network, found.groups, {name: kept for name, (kept, _) in units.items()})
        wrong = fault(network, plan, example)
        if wrong:
            raise StageError(f"the pruned network is not the network without its channels: {wrong}")
        write_json(out / "plan.json", plan)
        write_weights(apply_plan(network, plan), out / "model.safetensors")
        report = _report(self.macs_ratio, found, model, counts, units)
        write_json(out / "prune.json", report)
        asked = f", asked {self.macs_ratio:.3f}" if self.macs_ratio else ""
        log.info(
            "  %.2f of %.2f MMACs (%.2f of %.2f MFLOPs), ratio %.3f%s",
            *(report.macs / 1e6, report.macs_dense / 1e6),
            *(2 * report.macs / 1e6, 2 * report.macs_dense / 1e6, report.macs_ratio, asked),
        )

    def load(self, source: Checkpoint, out: Path, key: str) -> Pruned:
        return Pruned(key, source.task, out / "model.safetensors", out / "plan.json")

    def _counts(self, found: Groups, model: MacsModel) -> Counts:
        if self.multiple is None or self.floor is None:
            raise ConfigError(
                "prune.multiple and prune.floor are not set: resolve the recipe first"
            )
        if self.macs_ratio is not None:
            limit = self.macs_ratio * model.total(found.groups, _dense(found.groups))
            return counts_for_macs(
                self.allocator, found.groups, model, limit, self.multiple, self.floor
            )
        knob = self.allocator.knob()
        if knob is None:
            raise ConfigError(
                "how much to prune? set prune.macs_ratio, budget.macs_ratio, "
                "or the allocator's own ratios"
            )
        return counts_at(self.allocator, found.groups, knob, self.multiple, self.floor)

    def _best_units(
        self, task: Task, network: torch.nn.Module, found: Groups, counts: Counts
    ) -> dict[str, tuple["np.typing.NDArray[np.int64]", "np.typing.NDArray[np.float64]"]]:
        """The kept units of each group, sorted, and its scores."""
        chosen = balanced_indices(task.train, self.samples, self.seed)
        stats = collect(network, found.groups, batches(task.train, chosen, self.batch_size), task)
        best = {}
        for group in found.groups:
            scores = group_scores(self.criterion, group, stats)
            order = np.argsort(-scores, kind="stable")
            best[group.name] = (np.sort(order[: counts[group.name]]), scores)
        return best


def _example(task: Task) -> torch.Tensor:
    inputs, _ = next(batches(task.train, [0], 1))
    return torch.from_numpy(inputs)


def _dense(groups: tuple[Group, ...]) -> Counts:
    return {group.name: group.size for group in groups}


def _report(
    asked: float | None,
    found: Groups,
    model: MacsModel,
    counts: Counts,
    units: dict[str, tuple["np.typing.NDArray[np.int64]", "np.typing.NDArray[np.float64]"]],
) -> PruneReport:
    dense, kept = model.total(found.groups, _dense(found.groups)), model.total(found.groups, counts)
    groups = {}
    for group in found.groups:
        chosen, scores = units[group.name]
        removed = np.delete(scores, chosen)
        groups[group.name] = GroupReport(
            units=group.size,
            kept=len(chosen),
            lowest_kept=float(scores[chosen].min()),
            highest_removed=float(removed.max()) if len(removed) else None,
        )
    return PruneReport(
        macs_ratio_asked=asked,
        macs_ratio=kept / dense,
        macs_dense=dense,
        macs=kept,
        groups=groups,
        refused=dict(found.refused),
    )
