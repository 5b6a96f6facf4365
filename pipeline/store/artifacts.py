"""What stages hand to one another: folders of plain files, read only when asked for."""

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.origin import TaskOrigin
from pipeline.network.layer_times import NetworkTimes
from pipeline.store.reports import BuildReport, CheckReport, ExportReport, PruneReport, RepairReport
from pipeline.task import Task
from profiles.errors import ConfigError
from profiles.spec import read_spec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Artifact(ABC):
    """A result, named by `key`: the digest of all that it was made from."""

    key: str

    def check_unchanged(self) -> None:  # noqa: B027 - what comes of no file of the user's has none
        """Raise ConfigError naming a file of the user's that has changed since `key` was made."""


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A network: the task's architecture, a pruning plan or none, and weights."""

    task: Task
    weights: Path | None
    """None where the task's `network()` comes with its weights."""
    plan: Path | None
    teacher: "Checkpoint | None" = None
    """The dense network that a pruned one descends from."""
    origin: TaskOrigin | None = None
    """What the dense network and its data come from, for a checkpoint that is the task itself."""

    def check_unchanged(self) -> None:
        origin = (self.teacher or self).origin
        if origin is not None:
            origin.check_unchanged()

    def network(self) -> "nn.Module":
        """The network built, pruned by the plan and loaded, in eval mode.

        Raises ConfigError for weights that do not fit it, or that no training gives.
        """
        from torch import nn

        from pipeline.data.user_code import user_code
        from pipeline.network.plan import PruningPlan, apply_plan
        from pipeline.network.weights import check_values, load_weights, read_weights

        with user_code("the network's function"):
            network = self.task.network()
        if not isinstance(network, nn.Module):
            raise ConfigError(f"the network's function returned {type(network).__name__}")
        if self.plan is not None:
            network = apply_plan(network, read_spec(self.plan, PruningPlan))
        if self.weights is not None:
            load_weights(network, read_weights(self.weights), str(self.weights))
        else:
            check_values(network, network.state_dict(), "the network's function")
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


@dataclass(frozen=True)
class Checked(Artifact):
    """The outcome of the checks."""

    folder: Path

    def report(self) -> CheckReport:
        return read_spec(self.folder / "check.json", CheckReport)


@dataclass(frozen=True)
class TimedLayers(Artifact):
    """What the layers of a dense network take on one device, each alone."""

    folder: Path

    def times(self) -> NetworkTimes:
        # Longer than any file of a user's may be.
        return NetworkTimes.model_validate_json((self.folder / "layers.json").read_bytes())


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """`model.onnx`, its report, and the inputs on which the next step must agree."""

    folder: Path
    checkpoint: Checkpoint
    """The network it was exported from."""

    def check_unchanged(self) -> None:
        self.checkpoint.check_unchanged()

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
