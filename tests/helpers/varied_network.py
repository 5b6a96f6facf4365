"""A small network with one of everything; weights and inputs as uneven as real ones."""

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.arrays import FloatArray
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import Method, export_by
from exporters.parity import Network, feeds_of

SIDE, OPSET = 12, 20
SMOOTH = 12
"""Inputs with the structures of images, the first of all."""


class Varied(nn.Module):
    """Batch norms, both activations, both poolings and a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.inner_bn = nn.BatchNorm2d(8)
        self.outer = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fc = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem_bn(self.stem(x)))
        x = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        y = functional.relu(self.inner_bn(self.inner(x)))
        x = functional.relu(self.outer(y) + x)
        x = functional.relu(self.last(functional.max_pool2d(x, 2)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Sound:
    """The network before the step that breaks it."""

    network: nn.Module
    model: onnx.ModelProto
    inputs: FloatArray

    @property
    def reference(self) -> Network:
        return plain_network(self.model.SerializeToString())

    @property
    def feeds(self) -> list[FloatArray]:
        return feeds_of(self.inputs, True)

    @property
    def images_and_others(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """The smooth inputs, and noise and edges."""
        return feeds_of(self.inputs[:SMOOTH], True), feeds_of(self.inputs[SMOOTH:], True)


def varied(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return uneven(Varied(), inputs_of(SIDE))


def uneven(network: nn.Module, inputs: FloatArray) -> nn.Module:
    """`network` with weights and statistics as uneven as training leaves them.

    No class is the answer to everything: top-1 agreement would be worth nothing.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 2.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.from_numpy(inputs))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features)
        outputs = network.eval()(torch.from_numpy(inputs))
        heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
        for head in heads[-1:]:
            head.bias.sub_(outputs.mean(0))
    return network


def inputs_of(side: int, count: int = 2 * SMOOTH) -> FloatArray:
    """Images of large and small structures, noise, and the edges of what may come."""
    generator = np.random.default_rng(0)
    coarse = generator.standard_normal((count // 2, 3, 4, 4), np.float32)
    smooth = coarse.repeat(-(-side // 4), 2).repeat(-(-side // 4), 3)[:, :, :side, :side]
    noise = generator.standard_normal((count // 2, 3, side, side), np.float32)
    edges = np.stack([np.full((3, side, side), value) for value in (0, 2.5, -2.5)])
    return np.concatenate([1.5 * smooth, 1.5 * noise, edges.astype(np.float32)])


def sound(method: Method) -> Sound:
    """`varied()` as this exporter gives it."""
    network, inputs = varied(), inputs_of(SIDE)
    model, _ = export_by(method, network, feeds_of(inputs, True), OPSET, True)
    return Sound(network, model, inputs)
