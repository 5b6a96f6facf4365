"""What stages hand to one another: folders of plain files, read only when asked for."""

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.task import Task
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


class PruneReport(Spec):
    """Asked and achieved, and what could not be pruned."""

    macs_ratio_asked: float | None
    macs_ratio: float
    macs_dense: int
    macs: int
    groups: dict[str, GroupReport]
    refused: dict[str, str]


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A network: the task's architecture, a pruning plan or none, and weights."""

    task: Task
    weights: Path | None
    """None where the task's `network()` comes with its weights."""
    plan: Path | None

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


class ExportReport(Spec):
    """How an ONNX model came to be, and how near it is to the network."""

    method: str
    refused: tuple[str, ...]
    opset: int
    nodes_exported: int
    nodes: int
    export_error: float
    simplify_error: float
    macs: int
    parameters: int


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """`model.onnx`, its report, and the real inputs on which the next step must agree."""

    folder: Path

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
    """An engine file, built by us and held to the ONNX model it was built from."""

    path: Path
    source: OnnxModel
