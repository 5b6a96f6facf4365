"""Every runtime runs pruned networks as they are shipped, not only networks made for tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_resnet import resnet56
from torch import nn
from torchvision import models

from exporters.exporter import Exporter, Source, call_one, runtime
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import to_onnx
from exporters.parity import compare, feeds_of, require
from pipeline.network.plan import apply_plan
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, Widths
from pipeline.prune.choose import Selection, choose
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.prunable import find_prunable
from pipeline.scoring.collect import collect
from pipeline.task import cross_entropy
from profiles.device import EngineOptions
from profiles.errors import MissingExtra, StageError
from profiles.plugins import plugin_names

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=10), 64),
    "resnet18": (lambda: models.resnet18(num_classes=10), 64),
    "resnet56": (resnet56, 32),
}


@pytest.fixture(scope="module", params=NETWORKS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Half of the MACs of a network with random weights, its batch norms used to its inputs."""
    build, size = NETWORKS[request.param]
    torch.manual_seed(0)
    network = build().train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches: else signals die on the way
    inputs = torch.randn(16, 3, size, size)
    with torch.no_grad():
        for _ in range(10):
            network(inputs)
    network.eval()
    prunable = find_prunable(network, inputs[:1])
    stats = collect(network, prunable.groups, (), cross_entropy, Magnitude.needs)
    limits = Limits(macs=0.5 * prunable.macs)
    selection = Selection(Magnitude(), Uniform(), Widths(multiple=4))
    choice = choose(prunable, stats, selection, limits)
    pruned = apply_plan(network, choice.plan)
    feeds = feeds_of(inputs.numpy(), False)
    model = simplify(to_onnx(pruned, feeds, 20, False).model, feeds).model
    path = tmp_path_factory.mktemp(request.param, numbered=False) / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return Source(path, inputs.numpy(), lambda: pruned)


def exporters() -> list[str]:
    return list(plugin_names("exporters.engines"))


@pytest.mark.parametrize("name", exporters())
def test_a_pruned_network_answers_on_every_runtime_as_it_did(
    name: str, source: Source, tmp_path: Path
) -> None:
    try:
        exporter: Exporter = runtime(name, EngineOptions(compute_capability="8.6"))
    except MissingExtra as missing:
        pytest.skip(str(missing))
    engine = tmp_path / f"engine{exporter.suffix}"
    if (name, source.model.parent.name) == ("ncnn", "resnet56"):
        with pytest.raises(StageError, match=r"there is no layer for Tensor\.slice"):
            exporter.build(source, engine)
        return
    facts = exporter.build(source, engine)
    if exporter.unavailable_reason():
        assert engine.stat().st_size > 0.9 * (facts.weights_bytes or 0)
        pytest.skip(exporter.unavailable_reason())
    session = exporter.open(engine)
    reference = plain_network(source.model.read_bytes())
    feeds = [np.ascontiguousarray(source.calibration[i : i + 1]) for i in range(8)]
    require(name, compare(reference, lambda batch: call_one(session, batch), feeds))
