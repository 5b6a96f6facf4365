"""What stages hand to one another: folders of plain files, read only when asked for."""

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.base import BuildFacts
from exporters.cost import LayerCost
from exporters.parity import Parity
from pipeline.task import Task
from profiles.device import Precision
from profiles.errors import ConfigError
from profiles.spec import Spec, read_spec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Artifact(ABC):
    """A result, named by `key`: the digest of all that it was made from."""

    key: str


class GroupReport(Spec):
    """What became of one group."""

    units: int
    kept: int
    lowest_kept: float
    highest_removed: float | None


class Trial(Spec):
    """One way to prune that was tried: how far it ends from the dense network."""

    criterion: str
    allocator: str
    distance: float | None
    """On held-out samples, after a quick repair; None where it could not be tried."""
    reason: str


class PruneReport(Spec):
    """Asked and achieved, and what could not be pruned."""

    criterion: str
    allocator: str
    macs_ratio_asked: float | None
    macs_ratio: float
    macs_dense: int
    macs: int
    groups: dict[str, GroupReport]
    refused: dict[str, str]
    trials: tuple[Trial, ...]
    """What the criterion and the allocator were chosen from."""
    remarks: tuple[str, ...]


class RecoveryReport(Spec):
    """What one recovery did on the held-out samples."""

    name: str
    distance_before: float | None
    """From the dense network's outputs: KL divergence of logits, else relative squared error.
    None where the outputs are not finite."""
    distance_after: float | None
    kept: bool
    remarks: tuple[str, ...]


class RepairReport(Spec):
    """Every recovery, in turn."""

    recoveries: tuple[RecoveryReport, ...]


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A network: the task's architecture, a pruning plan or none, and weights."""

    task: Task
    weights: Path | None
    """None where the task's `network()` comes with its weights."""
    plan: Path | None
    teacher: "Checkpoint | None" = None
    """The dense network that a pruned one descends from."""

    def network(self) -> "nn.Module":
        """The network built, pruned by the plan and loaded, in eval mode."""
        from torch import nn

        from pipeline.plan import PruningPlan, apply_plan
        from pipeline.task import user_code
        from pipeline.weights import load_weights, read_weights

        with user_code("the network's function"):
            network = self.task.network()
        if not isinstance(network, nn.Module):
            raise ConfigError(f"the network's function returned {type(network).__name__}")
        if self.plan is not None:
            network = apply_plan(network, read_spec(self.plan, PruningPlan))
        if self.weights is not None:
            load_weights(network, read_weights(self.weights), str(self.weights))
        return network.eval()


@dataclass(frozen=True)
class Pruned(Checkpoint):
    """A checkpoint fresh from pruning, with the report on it."""

    plan: Path

    def report(self) -> PruneReport:
        return read_spec(self.plan.with_name("prune.json"), PruneReport)


@dataclass(frozen=True)
class Recovered(Checkpoint):
    """A checkpoint fresh from repair, with the report on it."""

    weights: Path

    def report(self) -> RepairReport:
        return read_spec(self.weights.with_name("recover.json"), RepairReport)


class Baseline(Spec):
    """A network that the pruned one has to beat, or, as "chosen", the pruned one itself."""

    name: str
    distance: float | None
    """From the dense network's outputs after a quick repair; None where there is none."""
    score: float | None
    """The task's metric on the validation samples; None where nothing was trained."""


class CheckReport(Spec):
    """The baselines, and how well the distance foretells the score."""

    baselines: tuple[Baseline, ...]
    kendall_tau: float | None
    """Between nearness after repair and score after fine-tuning, over `plans` plans."""
    plans: int


@dataclass(frozen=True)
class Checked(Artifact):
    """The outcome of the checks."""

    folder: Path

    def report(self) -> CheckReport:
        return read_spec(self.folder / "check.json", CheckReport)


class BuildReport(Spec):
    """How an engine came to be, and how near its outputs are to the network's."""

    engine: str
    precision: Precision
    parity: Parity | None
    """On images; None for an engine that was built but never run."""
    elsewhere: Parity | None
    """On noise and edges."""
    unverified: str
    """Why not; empty for one that ran."""
    facts: BuildFacts


class ExportReport(Spec):
    """How an ONNX model came to be, and how near it is to the network."""

    method: str
    refused: tuple[str, ...]
    opset: int
    nodes_exported: int
    nodes: int
    export_error: float
    simplified_by: str
    simplify_error: float
    macs: int
    parameters: int
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """`model.onnx`, its report, and the inputs on which the next step must agree."""

    folder: Path
    checkpoint: Checkpoint
    """The network it was exported from."""

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def feeds(self) -> Path:
        return self.folder / "feeds.npy"

    def report(self) -> ExportReport:
        return read_spec(self.folder / "export.json", ExportReport)


@dataclass(frozen=True)
class Engine(Artifact):
    """An engine file, built by us, held to the ONNX model it was built from if it runs where it
    was built.
    """

    path: Path
    source: OnnxModel

    def report(self) -> BuildReport:
        return read_spec(self.path.with_name("build.json"), BuildReport)
