"""One pass through the pruned network that re-solves every layer on its way."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.layers.folded_layer import folded
from pipeline.layers.follow import Follow, Operand, following
from pipeline.layers.output_sites import Site, norms_of
from pipeline.layers.sampled_rows import input_rows, output_rows
from pipeline.network.layer_kinds import linear_map
from pipeline.network.plan import PruningPlan
from pipeline.repair.dense_targets import Targets
from pipeline.repair.refine_blocks import Block, refine
from pipeline.repair.ridge import Problem, solve
from profiles.errors import StageError


def walk(
    network: nn.Module,
    plan: PruningPlan,
    targets: Targets,
    inputs: Tensor,
    fitted: int,
    steps: int,
) -> tuple[str, ...]:
    """Re-solve every layer of the pruned `network` in place, in the order they run.

    Each layer sees what the layers before it, already re-solved, make of `inputs`; its target is
    the dense network's output, less what it is added to: so it also makes good the drift of all
    before it. The first `fitted` samples are fitted, the others judge. Blocks that end in a sum
    are then refined by `steps` steps. Returns remarks on layers that stayed as they were.
    """
    stepper = _Walk(network, plan, targets, fitted, steps)
    modules = dict(network.named_modules())
    names = [name for name in targets.rows if name in modules]  # blocks may have gone
    norms = norms_of(targets.sites[name] for name in names)
    handles = [modules[name].register_forward_pre_hook(stepper.arriving(name)) for name in names]
    try:
        with torch.no_grad(), following(network, names, norms, stepper):
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(stepper.remarks)


class _Walk(Follow):
    """The state of a walk; nothing is kept of a layer that has been left behind."""

    def __init__(
        self, network: nn.Module, plan: PruningPlan, targets: Targets, fitted: int, steps: int
    ) -> None:
        super().__init__()
        self._layers = dict(network.named_modules())
        self._targets, self._fitted, self._steps = targets, fitted, steps
        self._kept = {name: kept.out.channels for name, kept in plan.layers.items() if kept.out}
        self._blocks = blocks(targets.sites, plan) if steps else {}
        self._starts = {block[0].layer for block in self._blocks.values()}
        self._inputs: dict[str, Tensor] = {}
        self.remarks: list[str] = []

    def arriving(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A forward pre-hook for the layer `name`."""

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            joins = self._targets.sites[name].joins
            if joins or name in self._starts:
                self._inputs[name] = args[0]
            if not joins:
                self._solve(name, args[0], None)

        return hook

    def adding(self, left: Operand, right: Operand) -> None:
        for one, other in ((right, left), (left, right)):
            for name in one.layers:
                if not self._targets.sites[name].joins:
                    continue
                inputs = self._inputs.pop(name)
                self._solve(name, inputs, other.value)
                one.value.copy_(self._joined(name, inputs, other.value))

    def _solve(self, name: str, inputs: Tensor, other: Tensor | None) -> None:
        site, chosen = self._targets.sites[name], self._targets.chosen[name]
        layer = folded(self._layers, site)
        rows = input_rows(site, layer.layer, inputs, chosen)
        if not math.isfinite(float(rows.sum())):
            raise StageError(f"{name}: its inputs are not finite on the calibration samples")
        fitted = self._fitted * chosen.shape[1]
        if fitted < rows.shape[2]:
            needed = -(-rows.shape[2] * self._fitted // fitted)
            self.remarks.append(
                f"{name}: {fitted} rows for {rows.shape[2]} weights an output are too few for "
                f"least squares, about {needed} samples are needed; the layer is as it was"
            )
            return
        problem = Problem(
            inputs=rows,
            target=self._target(name),
            other=None if other is None else output_rows(layer.layer, other, chosen),
            range=site.range,
            weight=layer.weight(),
            bias=layer.affine()[1],
            shifts=layer.shifts(),
        )
        found = solve(problem, fitted)
        if found.better:
            layer.write(found.weight, found.bias, rows)

    def _joined(self, name: str, inputs: Tensor, other: Tensor) -> Tensor:
        """The new output of a layer that is about to be added, its block refined before."""
        block = self._block(name, other)
        weights = refine(block, self._steps, self._fitted) if block else None
        if block is None or weights is None:
            layer, norm = self._layers[name], self._targets.sites[name].norm
            outputs: Tensor = layer.forward(inputs)
            return self._layers[norm].forward(outputs) if norm else outputs
        value = block.inputs
        for site, layer, outputs, weight, bias in zip(
            *(block.sites, block.layers, block.outputs(weights, 0, len(inputs))),
            *(weights[::2], weights[1::2]),
            strict=True,
        ):
            rows = input_rows(site, layer.layer, value, self._targets.chosen[site.layer])
            layer.write(linear_map(layer.layer).matrix_of(weight), bias, rows)
            value = outputs.clamp(*site.range)
        return outputs

    def _block(self, name: str, other: Tensor) -> Block | None:
        sites = self._blocks.get(name)
        if sites is None:
            return None
        layers = [folded(self._layers, site) for site in sites]
        chosen = self._targets.chosen[name]
        inputs = self._inputs.pop(sites[0].layer)
        if inputs.dim() == 4:  # convolutions train faster so
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Block(
            sites=sites,
            layers=layers,
            inputs=inputs,
            other=output_rows(layers[-1].layer, other, chosen),
            target=self._target(name),
            chosen=chosen,
        )

    def _target(self, name: str) -> Tensor:
        rows = self._targets.rows[name]
        kept = self._kept.get(name)
        return rows if kept is None else rows[:, list(kept)]


def blocks(sites: Mapping[str, Site], plan: PruningPlan) -> dict[str, tuple[Site, ...]]:
    """The layers of each block that ends in a sum and was pruned inside, by its last layer.

    Each but the first reads what the one before it gives, and nobody else does.
    """
    found: dict[str, tuple[Site, ...]] = {}
    for name, site in sites.items():
        block = [site]
        while site.joins and block[0].reads:
            before = sites.get(block[0].reads)
            if before is None or before.joins:
                break
            block.insert(0, before)
        if any(one.layer in plan.layers for one in block[:-1]):
            found[name] = tuple(block)
    return found
