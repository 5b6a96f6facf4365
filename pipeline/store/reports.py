"""What each stage reports of what it did, as it stands in its folder."""

from exporters.exporter import BuildFacts
from exporters.graph.cost import LayerCost
from exporters.parity import Parity
from pipeline.train.epoch_record import Epoch
from profiles.device import Precision
from profiles.spec import Spec


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
    """Why it could not be tried, or was not tried in full: then the repair was rougher, and less is
    told by its distance. Empty for the others, and for one that was nearer than all by far."""


class BuiltNetwork(Spec):
    """A network that was built and measured to see whether it meets the budget."""

    macs_ratio: float
    share: float
    """Of the budget that it takes; at most 1 meets it."""
    largest: str
    """The figure that takes so much."""


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
    built: tuple[BuiltNetwork, ...] = ()
    """The dense network and those that were pruned to a budget of times, in their order."""
    widths_by_time: bool = False
    """Whether widths are those at which measured times of layers fall, and not multiples."""
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


class FineTuneReport(Spec):
    """Every epoch, and the one whose weights were kept."""

    epochs: tuple[Epoch, ...]
    """The epochs in their order; the first is epoch 0, before any training."""
    best: int
    """The number of the epoch whose weights were kept."""


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
