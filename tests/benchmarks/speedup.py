"""How much of the MACs saved is time saved: ONNX Runtime on this CPU, one thread, fp32.

The question: do networks at half of their MACs take half the time, and do their widths matter?
Rows: network, peer, aligned, multiple, macs_ratio, latency_ratio and its bounds, latency_control,
realised = macs_ratio / latency_ratio; so 1 is a speed-up as large as MACs promise.

- slimgate, magnitude+uniform, every group kept in a multiple of `multiple` channels; `aligned`
  where that is the device profile's own or the width of the CPU's registers
- peer torch-pruning: its L2 magnitude in each layer, in widths as its defaults leave them

Latency is CPU time of the engine beside the dense one, interleaved in fresh processes;
`latency_control` is the dense engine beside itself. Weights are those of `--data` where there are
any: time depends on shapes alone. `--full` changes nothing.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from common import Row, latency_figures, numbers, parse_options, report
from real import told
from shapes import PEER, load, macs_of, prune_by_peer, pruned
from torch import Tensor, nn

from exporters.engines.ort import Ort
from exporters.exporter import Source
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import to_onnx
from exporters.parity import feeds_of
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, Measure, Timing, engine_file, time_engines
from pipeline.prune.channel_counts import Widths
from profiles.device import DeviceProfile, load_device

NETWORKS = ("mobilenet_v2", "resnet50")
MULTIPLES = (1, 8, 16)
MACS_RATIO = 0.5
OPSET = 20


def engine_of(network: nn.Module, inputs: Tensor, path: Path) -> Path:
    """The way a recipe goes: exported, simplified, built, each step checked."""
    feeds = feeds_of(inputs.numpy(), False)
    exported = to_onnx(network, feeds, OPSET, False).model
    model = path.with_suffix(".model")
    model.write_bytes(simplify(exported, feeds).model.SerializeToString())
    Ort().build(Source(model, inputs.numpy(), lambda: network), path)
    return path


def candidates(
    dense: nn.Module, inputs: Tensor, device: DeviceProfile
) -> Iterator[tuple[str | None, bool, int, nn.Module]]:
    """Peer, whether aligned, multiple and network."""
    for multiple in MULTIPLES:
        network = pruned(dense, inputs, MACS_RATIO, Widths(multiple=multiple))
        yield None, multiple % device.channel_multiple == 0, multiple, network
    network = deepcopy(dense)
    prune_by_peer(network, inputs, MACS_RATIO)
    yield PEER, False, 1, network.requires_grad_(False)


def all_rows(data: Path, folder: Path, device: DeviceProfile) -> Iterator[Row]:
    """Each candidate beside its dense network."""
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 224, 224)
    for name in NETWORKS:
        dense = load(name, data)
        macs = macs_of(dense, inputs)
        beside = engine_file(engine_of(dense, inputs, folder / f"{name}.onnx"), device)
        for number, (peer, aligned, multiple, network) in enumerate(
            candidates(dense, inputs, device)
        ):
            ratio = macs_of(network, inputs) / macs
            engine = engine_of(network, inputs, folder / f"{name}-{number}.onnx")
            pair = EnginePair(beside, engine_file(engine, device))
            timing = Timing(Measure(seconds=4), device.batch, device.clock, least_calls=12)
            figures = latency_figures(time_engines(ThisMachine(), pair, timing))
            latency = figures["latency_ratio"]
            assert isinstance(latency, float)
            yield {
                "network": name,
                "peer": peer,
                "aligned": aligned,
                "multiple": multiple,
                "macs_ratio": ratio,
                **figures,
                "realised": ratio / latency,
            }


def spread_of(rows: Sequence[Row]) -> dict[str, float]:
    """`latency_control`: the worst; `latency_ratio`: the widest bounds, one side."""
    widths = zip(numbers(rows, "latency_upper"), numbers(rows, "latency_ratio"), strict=True)
    return {
        "latency_ratio": max(upper - middle for upper, middle in widths),
        "latency_control": max(abs(c - 1) for c in numbers(rows, "latency_control")),
    }


def main() -> None:
    options = parse_options(__doc__)
    device = load_device("host", options.data)
    with options.folder() as folder:
        rows = list(told(all_rows(options.data, folder, device)))
    report(rows, spread_of(rows), options)


if __name__ == "__main__":
    main()
