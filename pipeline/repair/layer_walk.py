"""The pruned network, walked through layer by layer in small batches of samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import Site, norms_of
from pipeline.layers.output_tracker import Operand, tracking
from pipeline.layers.replay import Checkpoint, Replay, Stopped, owned_by
from pipeline.layers.sampled_rows import input_rows, output_rows
from pipeline.network.spool import KeptSamples, Memory, Samples, Spool
from pipeline.network.walks import parts_of
from profiles.errors import StageError

MOST_REPLAYED = 4
"""Layers after a checkpoint until the next one, where memory has no room for one at each layer."""


@dataclass(frozen=True)
class Step:
    """One layer to be solved, when a walk has come so far."""

    layer: str
    sound: bool
    """Whether no layer that has run already is still to be solved: a checkpoint can be here."""
    size: int
    """Bytes of a checkpoint here, for one sample or two."""


@dataclass(frozen=True)
class Gathered:
    """What all samples give at one layer."""

    inputs: Tensor
    """[groups, rows, columns]; overwritten when the walk goes on."""
    other: Tensor | None
    """[rows, outputs]: what the output is about to be added to; None where it joins no sum."""
    block_inputs: Samples
    """[samples, ...]: what the first layer of its block reads; empty without a block."""


class LayerWalk:
    """Walks from one layer to the next. Weights of layers behind it do not change any more."""

    def __init__(
        self,
        network: nn.Module,
        sites: Mapping[str, Site],
        blocks: Mapping[str, str],
        inputs: Samples,
        memory: Memory,
    ) -> None:
        """`blocks` gives the first layer of the block that ends with a layer."""
        self._network, self._sites, self._blocks = network, sites, blocks
        self._inputs, self._memory = inputs, memory
        self._layers, self._owned = dict(network.named_modules()), owned_by(network)
        self._parts = parts_of(network, inputs)
        self._buffer: Tensor | None = None
        self._checkpoints: list[Checkpoint | None] = [None] * len(self._parts)
        probe, two = _Probe(self._owned, sites, blocks), inputs[:2]
        self._run(probe, sites, lambda: two)
        self.steps = probe.steps
        """The layers, in the order in which they can be solved."""
        largest = max((step.size for step in self.steps), default=0) * len(inputs) // len(two)
        # The new ones lie beside the old, and those of another device are copied from it.
        at_hand = two.device.type == "cpu" and memory.has_room(2 * largest)
        replayed = 1 if at_hand else MOST_REPLAYED
        self._saved = checkpoint_layers(self.steps, replayed) if probe.can_go_on else set()

    def gather(self, name: str, positions: Tensor) -> Gathered:
        """What all samples give at the layer `name`, at `positions` [samples, n].

        Raises StageError where some samples never reach the layer.
        """
        spool = self._memory.spool() if name in self._saved else None
        goal = _Goal(self._sites[name], self._layers[name], self._blocks.get(name), spool)
        inputs, other = _Rows(1, positions.numel(), self._buffer), _Rows(0, positions.numel(), None)
        block_inputs = KeptSamples(self._memory.spool(), self._inputs[:1].device)
        for number, part in enumerate(self._parts):
            walk = _Pass(self._owned, self._checkpoints[number], goal, positions[part])
            read = partial(self._inputs.__getitem__, part)
            self._run(walk, [name], read, last=spool is not None)
            if not walk.arrived:
                raise StageError(
                    f"{name}: not every calibration sample reaches this layer; least squares needs "
                    "a network that runs the same layers for all of them"
                )
            inputs.add(walk.inputs)
            other.add(walk.other)
            if walk.block_inputs is not None:
                block_inputs.append(walk.block_inputs)
            self._checkpoints[number] = walk.saved or self._checkpoints[number]
        assert inputs.rows is not None
        if self._buffer is None or inputs.rows.numel() > self._buffer.numel():
            self._buffer = inputs.rows.view(-1)
        return Gathered(inputs.rows, other.rows, block_inputs)

    def _run(
        self,
        walk: "_Walk",
        tracked: Collection[str],
        read: Callable[[], Tensor],
        last: bool = False,
    ) -> None:
        """One pass that is told when layers of `tracked`, and first ones of their blocks, run."""
        norms = norms_of(self._sites[name] for name in tracked)
        starts = [self._blocks[name] for name in tracked if name in self._blocks]
        handles = [
            self._layers[name].register_forward_pre_hook(walk.before(name))
            for name in {*tracked, *starts}
        ]
        try:
            with torch.no_grad(), tracking(self._layers, tracked, norms, walk):
                walk.run(self._network, read, last)
        finally:
            for handle in handles:
                handle.remove()


def checkpoint_layers(steps: Sequence[Step], replayed: int) -> set[str]:
    """The layers before which a checkpoint is worth its size: the smallest of every `replayed`."""
    found: set[str] = set()
    last = 0
    while last + 1 < len(steps):
        ahead = [place for place in range(last + 1, len(steps)) if steps[place].sound]
        near = [place for place in ahead if place <= last + replayed] or ahead[:1]
        if not near:
            break
        last = min(near, key=lambda place: (steps[place].size, -place))
        found.add(steps[last].layer)
    return found


class _Walk(Replay):
    """A pass that is told when a layer is about to run."""

    def before(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.reached(name, args[0])

        return hook

    def reached(self, name: str, inputs: Tensor) -> None:
        """The layer `name` is about to read `inputs`."""


class _Probe(_Walk):
    """Finds the order in which layers can be solved."""

    def __init__(
        self, owned: Mapping[int, Tensor], sites: Mapping[str, Site], blocks: Mapping[str, str]
    ) -> None:
        super().__init__(owned, None)
        self._sites, self._ends = sites, {start: end for end, start in blocks.items()}
        self._open: set[str] = set()
        self.steps: list[Step] = []

    def reached(self, name: str, inputs: Tensor) -> None:
        if self._sites[name].joins:
            self._open.add(name)
        else:
            with self.aside():
                self.steps.append(Step(name, not self._open, self.bytes_in_use()))
        if name in self._ends:
            self._open.add(self._ends[name])

    def before_sum(self, left: Operand, right: Operand) -> None:
        for name in (*right.layers, *left.layers):
            if name in self._open and self._sites[name].joins:
                self.steps.append(Step(name, sound=False, size=0))
                self._open.discard(name)


@dataclass(frozen=True)
class _Goal:
    """The layer at which passes end."""

    site: Site
    layer: nn.Module
    start: str | None
    """The first layer of its block."""
    spool: Spool | None
    """Where a checkpoint is put; None where none is to be made."""


class _Pass(_Walk):
    """Gathers what one part of the samples gives at one layer, and stops there."""

    def __init__(
        self,
        owned: Mapping[int, Tensor],
        checkpoint: Checkpoint | None,
        goal: _Goal,
        positions: Tensor,
    ) -> None:
        super().__init__(owned, checkpoint)
        self._goal, self._positions = goal, positions
        self.inputs: Tensor | None = None
        self.other: Tensor | None = None
        self.block_inputs: Tensor | None = None
        self.saved: Checkpoint | None = None
        self.arrived = False

    def reached(self, name: str, inputs: Tensor) -> None:
        goal = self._goal
        self.need((inputs,))
        with self.aside():
            if name == goal.start:
                self.block_inputs = inputs.clone()
            if name != goal.site.layer:
                return
            self.inputs = input_rows(goal.site, goal.layer, inputs, self._positions)
            if goal.site.joins:
                return
            if goal.spool:
                self.saved = self.checkpoint(goal.spool)
        self._stop()

    def before_sum(self, left: Operand, right: Operand) -> None:
        name = self._goal.site.layer
        for one, beside in ((right, left), (left, right)):
            if self._goal.site.joins and name in one.layers and self.inputs is not None:
                self.other = output_rows(self._goal.layer, beside.value, self._positions)
                self._stop()

    def _stop(self) -> None:
        self.arrived = True
        raise Stopped


class _Rows:
    """Rows of all samples, filled part by part along one axis."""

    def __init__(self, axis: int, count: int, buffer: Tensor | None) -> None:
        """They lie in `buffer`, one-dimensional, where that is given and large enough."""
        self._axis, self._count, self._filled, self._buffer = axis, count, 0, buffer
        self.rows: Tensor | None = None

    def add(self, part: Tensor | None) -> None:
        if part is None:
            return
        if self.rows is None:
            shape = list(part.shape)
            shape[self._axis] = self._count
            size, buffer = prod(shape), self._buffer
            if buffer is None or buffer.numel() < size or buffer.dtype != part.dtype:
                buffer = part.new_empty(size)
            self.rows = buffer[:size].view(shape)
        size = part.shape[self._axis]
        self.rows.narrow(self._axis, self._filled, size).copy_(part)
        self._filled += size
