"""What the removed channels gave on average, added to the biases of those that read them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import find_sites
from pipeline.network.calibration import Calibration
from pipeline.network.layer_kinds import linear_map
from pipeline.network.plan import PruningPlan
from pipeline.repair.recoveries import Recovery

BATCH_SAMPLES = 64


class BiasCompensate(Recovery):
    """b += W[:, removed] E[X_removed], in the dense network (FLAP, arXiv 2312.11983).

    The bias may be that of the layer or, with the sign of its mean, of the batch norm behind it.
    """

    def recover(
        self, network: nn.Module, dense: nn.Module, plan: PruningPlan, calibration: Calibration
    ) -> tuple[str, ...]:
        layers, pruned = dict(dense.named_modules()), dict(network.named_modules())
        sites = find_sites(dense, calibration.inputs[:1])
        readers = [
            name
            for name, kept in plan.layers.items()
            if kept.inputs and name in sites and not linear_map(layers[name]).one_sided
        ]
        means = _input_means(dense, readers, calibration)
        remarks = []
        for name in readers:
            part = plan.layers[name]
            assert part.inputs is not None
            gone = torch.ones(part.inputs.of, dtype=torch.bool)
            gone[list(part.inputs.channels)] = False
            silenced = torch.where(gone.to(means[name].device), means[name], 0)
            lost = linear_map(layers[name]).at_constant_input(silenced)
            if part.out:
                lost = lost[list(part.out.channels)]
            norm = sites[name].norm
            bias: Tensor | None = getattr(pruned[name], "bias", None)
            with torch.no_grad():
                if bias is not None:
                    bias += lost
                elif norm is not None:
                    pruned[norm].get_buffer("running_mean").sub_(lost)
                else:
                    remarks.append(f"{name}: has no bias to compensate in")
        return tuple(remarks)


def _input_means(
    network: nn.Module, names: list[str], calibration: Calibration
) -> dict[str, Tensor]:
    """The mean over samples and positions of what each layer reads, [inputs]."""
    layers = dict(network.named_modules())
    sums: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            value = args[0]
            last = linear_map(layer).channels_last
            rows = value.flatten(0, -2) if last else value.flatten(2).mean(2)
            sums[name] = sums.get(name, torch.zeros(())) + rows.mean(0) * len(value)

        return hook

    handles = [layers[name].register_forward_pre_hook(add(name)) for name in names]
    try:
        with torch.no_grad():
            for inputs, _ in calibration.batches(BATCH_SAMPLES):
                network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / calibration.fitted for name, total in sums.items()}
