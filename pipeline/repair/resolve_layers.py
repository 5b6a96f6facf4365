"""A walk through the pruned network that re-solves every layer on its way."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.data.progress import progress
from pipeline.layers.folded_layer import folded
from pipeline.layers.output_sites import Site
from pipeline.layers.sampled_rows import input_rows
from pipeline.network.layer_kinds import LinearMap, kind_of, linear_map
from pipeline.network.plan import PruningPlan
from pipeline.repair.dense_targets import DenseTargets
from pipeline.repair.layer_walk import Gathered, LayerWalk
from pipeline.repair.refine_blocks import Block, refine
from pipeline.repair.ridge import ALTERNATIONS, Problem, solve
from profiles.errors import StageError


def resolve_layers(
    network: nn.Module,
    plan: PruningPlan,
    targets: DenseTargets,
    steps: int,
    alternations: int = ALTERNATIONS,
) -> tuple[str, ...]:
    """Re-solve every layer of the pruned `network` in place, in the order they run.

    Each layer sees what the layers before it, already re-solved, make of the targets' inputs; its
    target is the dense network's output, less what it is added to: so it also makes good the
    drift of all before it. Blocks that end in a sum are then refined by `steps` steps. Returns
    remarks on layers that could not be solved. Raises StageError where what a layer reads is not
    finite.
    """
    modules = dict(network.named_modules())
    sites = {name: targets.sites[name] for name in targets.rows if name in modules}  # blocks go
    blocks = pruned_blocks(targets.sites, plan) if steps else {}
    starts = {end: block[0].layer for end, block in blocks.items() if end in sites}
    walk = LayerWalk(network, sites, starts, targets.inputs, targets.memory)
    solver = _LayerSolver(modules, plan, targets, steps, alternations)
    with torch.no_grad():
        for step in progress("layers solved again", walk.steps, len(walk.steps)):
            gathered = walk.gather(step.layer, targets.positions[step.layer])
            solver.solve(sites[step.layer], gathered)
            if step.layer in starts:
                solver.refine(blocks[step.layer], gathered)
            del gathered
    unmapped = (
        f"{name}: it runs more than once, or computes more than its weights and padding say; the "
        "layer is as it was"
        for name in plan.layers
        if name in modules and name not in targets.sites
        if isinstance(kind_of(modules[name]), LinearMap)
    )
    return tuple(unmapped)


class _LayerSolver:
    """Fits one layer, or one block, at a time."""

    def __init__(
        self,
        layers: dict[str, nn.Module],
        plan: PruningPlan,
        targets: DenseTargets,
        steps: int,
        alternations: int,
    ) -> None:
        self._layers, self._targets = layers, targets
        self._steps, self._alternations = steps, alternations
        self._kept = {name: kept.out.channels for name, kept in plan.layers.items() if kept.out}

    def solve(self, site: Site, gathered: Gathered) -> None:
        """Re-solve one layer, where that is better on samples that were not fitted."""
        name, rows = site.layer, gathered.inputs
        layer = folded(self._layers, site)
        if not math.isfinite(float(rows.sum())):
            raise StageError(f"{name}: its inputs are not finite on the calibration samples")
        fitted = self._targets.fitted * self._targets.positions[name].shape[1]
        problem = Problem(
            inputs=rows,
            target=self._target(name),
            other=gathered.other,
            range=site.range,
            weight=layer.weight(),
            bias=layer.affine()[1],
            shifts=layer.shifts(),
        )
        found = solve(problem, fitted, self._alternations)
        if found.better:
            layer.write(found.weight, found.bias, rows)

    def refine(self, sites: Sequence[Site], gathered: Gathered) -> None:
        """Refine the layers of a block together, where that is better, likewise."""
        assert gathered.other is not None
        name = sites[-1].layer
        block = Block(
            sites=sites,
            layers=[folded(self._layers, site) for site in sites],
            inputs=gathered.block_inputs,
            other=gathered.other,
            target=self._target(name),
            positions=self._targets.positions[name],
        )
        weights = refine(block, self._steps, self._targets.fitted)
        if weights is None:
            return
        for number, site in enumerate(sites):
            layer = block.layers[number]
            positions = self._targets.positions[site.layer]
            parts = [
                input_rows(site, layer.layer, block.reads(number, weights, part), positions[part])
                for part in block.parts(0, len(block.inputs))
            ]
            weight, bias = weights[2 * number : 2 * number + 2]
            layer.write(linear_map(layer.layer).matrix_of(weight), bias, torch.cat(parts, 1))

    def _target(self, name: str) -> Tensor:
        rows, kept = self._targets.rows[name][:], self._kept.get(name)
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
