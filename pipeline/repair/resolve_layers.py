"""One pass through the pruned network that re-solves every layer on its way."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.layers.folded_layer import folded
from pipeline.layers.output_sites import Site, norms_of
from pipeline.layers.output_tracker import Operand, OutputTracker, tracking
from pipeline.layers.sampled_rows import input_rows, output_rows
from pipeline.network.layer_kinds import LinearMap, kind_of, linear_map
from pipeline.network.plan import PruningPlan
from pipeline.repair.dense_targets import DenseTargets
from pipeline.repair.refine_blocks import Block, refine
from pipeline.repair.ridge import Problem, solve
from profiles.errors import StageError


def resolve_layers(
    network: nn.Module, plan: PruningPlan, targets: DenseTargets, steps: int
) -> tuple[str, ...]:
    """Re-solve every layer of the pruned `network` in place, in the order they run.

    Each layer sees what the layers before it, already re-solved, make of the targets' inputs; its
    target is the dense network's output, less what it is added to: so it also makes good the
    drift of all before it. Blocks that end in a sum are then refined by `steps` steps. Returns
    remarks on layers that stayed as they were. Raises StageError where what a layer reads is not
    finite.
    """
    solver = _LayerSolver(network, plan, targets, steps)
    modules = dict(network.named_modules())
    names = [name for name in targets.rows if name in modules]  # blocks may have gone
    norms = norms_of(targets.sites[name] for name in names)
    handles = [modules[name].register_forward_pre_hook(solver.solve_before(name)) for name in names]
    try:
        with torch.no_grad(), tracking(network, names, norms, solver):
            network(targets.inputs)
    finally:
        for handle in handles:
            handle.remove()
    unmapped = (
        f"{name}: it runs more than once, or computes more than its weights and padding say; the "
        "layer is as it was"
        for name in plan.layers
        if name in modules and name not in targets.sites
        if isinstance(kind_of(modules[name]), LinearMap)
    )
    return (*solver.remarks, *unmapped)


class _LayerSolver(OutputTracker):
    """The state of one pass; nothing is kept of a layer that has been left behind."""

    def __init__(
        self, network: nn.Module, plan: PruningPlan, targets: DenseTargets, steps: int
    ) -> None:
        super().__init__()
        self._layers = dict(network.named_modules())
        self._targets, self._steps = targets, steps
        self._kept = {name: kept.out.channels for name, kept in plan.layers.items() if kept.out}
        self._blocks = pruned_blocks(targets.sites, plan) if steps else {}
        self._starts = {block[0].layer for block in self._blocks.values()}
        self._inputs: dict[str, Tensor] = {}
        self.remarks: list[str] = []

    def solve_before(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A forward pre-hook that re-solves the layer `name`, unless its sum does so later."""

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            joins = self._targets.sites[name].joins
            if joins or name in self._starts:
                self._inputs[name] = args[0]
            if not joins:
                self._solve(name, args[0], None)

        return hook

    def before_sum(self, left: Operand, right: Operand) -> None:
        for one, other in ((right, left), (left, right)):
            for name in one.layers:
                if not self._targets.sites[name].joins:
                    continue
                inputs = self._inputs.pop(name)
                self._solve(name, inputs, other.value)
                one.value.copy_(self._joined(name, inputs, other.value))

    def _solve(self, name: str, inputs: Tensor, other: Tensor | None) -> None:
        site, positions = self._targets.sites[name], self._targets.positions[name]
        layer = folded(self._layers, site)
        rows = input_rows(site, layer.layer, inputs, positions)
        if not math.isfinite(float(rows.sum())):
            raise StageError(f"{name}: its inputs are not finite on the calibration samples")
        fitted = self._targets.fitted * positions.shape[1]
        if fitted < rows.shape[2]:
            needed = -(-rows.shape[2] * self._targets.fitted // fitted)
            self.remarks.append(
                f"{name}: {fitted} rows for {rows.shape[2]} weights an output are too few for "
                f"least squares, about {needed} samples are needed; the layer is as it was"
            )
            return
        problem = Problem(
            inputs=rows,
            target=self._target(name),
            other=None if other is None else output_rows(layer.layer, other, positions),
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
        weights = refine(block, self._steps, self._targets.fitted) if block else None
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
            rows = input_rows(site, layer.layer, value, self._targets.positions[site.layer])
            layer.write(linear_map(layer.layer).matrix_of(weight), bias, rows)
            value = outputs.clamp(*site.range)
        return outputs

    def _block(self, name: str, other: Tensor) -> Block | None:
        sites = self._blocks.get(name)
        if sites is None:
            return None
        layers = [folded(self._layers, site) for site in sites]
        positions = self._targets.positions[name]
        inputs = self._inputs.pop(sites[0].layer)
        if inputs.dim() == 4:  # convolutions train faster so
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Block(
            sites=sites,
            layers=layers,
            inputs=inputs,
            other=output_rows(layers[-1].layer, other, positions),
            target=self._target(name),
            positions=positions,
        )

    def _target(self, name: str) -> Tensor:
        rows = self._targets.rows[name]
        kept = self._kept.get(name)
        return rows if kept is None else rows[:, list(kept)]


def pruned_blocks(sites: Mapping[str, Site], plan: PruningPlan) -> dict[str, tuple[Site, ...]]:
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
