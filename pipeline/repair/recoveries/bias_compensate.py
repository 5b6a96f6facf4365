"""What the removed channels gave on average, added to the biases of those that read them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.layers.output_sites import find_sites
from pipeline.network.calibration import Calibration
from pipeline.network.plan import BATCH_NORMS, CONVOLUTIONS, PruningPlan, is_depthwise
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
            if kept.inputs and name in sites and not is_depthwise(layers[name])
        ]
        means = _input_means(dense, readers, calibration)
        remarks = []
        for name in readers:
            part = plan.layers[name]
            assert part.inputs is not None
            gone = torch.ones(part.inputs.of, dtype=torch.bool)
            gone[list(part.inputs.channels)] = False
            lost = _answer(layers[name], torch.where(gone.to(means[name].device), means[name], 0))
            if part.out:
                lost = lost[list(part.out.channels)]
            norm = sites[name].norm
            bias: Tensor | None = getattr(pruned[name], "bias", None)
            with torch.no_grad():
                if bias is not None:
                    bias += lost
                elif norm is not None:
                    behind = pruned[norm]
                    assert isinstance(behind, BATCH_NORMS)
                    behind.get_buffer("running_mean").sub_(lost)
                else:
                    remarks.append(f"{name}: has no bias to compensate in")
        return tuple(remarks)


def _answer(layer: nn.Module, mean: Tensor) -> Tensor:
    """What a layer makes of an input that is `mean` [inputs] everywhere, its bias apart."""
    weight = layer.get_parameter("weight").detach()
    if isinstance(layer, CONVOLUTIONS):
        split = weight.flatten(2).sum(2).reshape(layer.groups, -1, weight.shape[1])
        return (split @ mean.reshape(layer.groups, -1, 1)).flatten()
    return weight @ mean


def _input_means(
    network: nn.Module, names: list[str], calibration: Calibration
) -> dict[str, Tensor]:
    """The mean over samples and positions of what each layer reads, [inputs]."""
    layers = dict(network.named_modules())
    sums: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            value = args[0]
            last = isinstance(layer, nn.Linear)
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
