"""Which of other people's networks go all the way: groups, plan, repair, ONNX, engine.

24 of timm's small families and, with `--full`, torchvision's 80 classification models: random
weights, the smallest input they take, pruned to 0.7 of their MACs by magnitude+uniform, repaired
on 32 samples, exported by torch's exporters in turn, simplified and built for ONNX Runtime.
`--data` is not read. Rows: model, convolutional, peer, size, ok, same, reason, stage, dynamo,
torchscript, macs_ratio, distance_before, distance_after, nodes, bytes, seconds.

- `convolutional`: no attention, by the name
- `distance_before`, `distance_after`: from the dense network on held-out samples, by repair
- `dynamo`, `torchscript`: the engine of this exporter's graph answers as the repaired torch
  network; null where it was not tried, because the one before it did
- `ok`: one of them does, as the recipe asks; `stage` is where it ended otherwise, `reason` why,
  or what was held against the first exporter; `nodes` and `bytes` are of the engine
- `same`: the smaller network answers as the whole one whose removed channels give and are read as
  zeros; largest difference SAME of the largest output
- peer torch-pruning: the same network by its own pruner, L2 magnitude in each layer; `ok` when the
  network runs at MACs within .05 of those asked for and some exporter's ONNX answers alike,
  whether it is the `same` or not

Each row is a process of its own: one that crashes, hangs or takes too much memory ends as a row.
timm's take about an hour on one core. With `--cache` a run goes on after the rows of one that was
killed.
"""

import copy
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import timm
import torch
import torchvision
from common import Figure, Row, parse_options, report
from real import told
from shapes import PEER, difference_from_silence, prune_by_peer
from torch import Tensor, nn

from exporters.arrays import FloatArray
from exporters.engines.ort import Ort
from exporters.exporter import Source, call_one
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import METHODS, Method, export_by, to_onnx, torch_network
from exporters.parity import compare, feeds_of, require
from pipeline.data.arrays import IntArray
from pipeline.network.calibration import calibration_of_batches
from pipeline.network.layer_kinds import BatchNorm, kind_of
from pipeline.network.plan import apply_plan
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits
from pipeline.prune.choose import Selection, choose
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.prunable import find_prunable, verify
from pipeline.repair.chain import repair
from pipeline.repair.recoveries.least_squares import LeastSquares
from pipeline.scoring.collect import collect
from pipeline.task import cross_entropy
from profiles.errors import StageError

TIMM = """mobilenetv4_conv_small repvit_m0_9 repvgg_a0 efficientvit_b0 efficientformer_l1
efficientformerv2_s0 ghostnetv2_100 convnext_atto convnextv2_atto fastvit_t8 mobileone_s0
hardcorenas_a tinynet_e edgenext_xx_small resnet10t regnetx_002 vit_tiny_patch16_224
deit_tiny_patch16_224 swin_tiny_patch4_window7_224 mobilevit_xxs levit_128s tf_efficientnet_lite0
tf_mobilenetv3_small_075 mixnet_s""".split()
BUILT_FOR = {
    **{"vit_tiny_patch16_224": 64, "deit_tiny_patch16_224": 64, "levit_128s": 64},
    **{"efficientformerv2_s0": 64, "swin_tiny_patch4_window7_224": 128},
}
"""The input size of networks that take only the size they are built for."""
MACS_RATIO = 0.7
SAME = 1e-3
SIZES = (32, 64, 96, 128, 224, 299)
OPSET = 20
INPUTS = 4
SAMPLES = 32
"""That repair is given, drawn at random."""
TIMEOUT = 600
MEMORY = 14 * 2**30
"""Bytes that one process may have."""
ATTENTION = ("vit", "swin", "former", "edgenext")
FOUND = (
    *("size", "ok", "same", "reason", "stage", *METHODS, "macs_ratio"),
    *("distance_before", "distance_after", "nodes", "bytes"),
)
"""What a child tells."""


class Trial:
    """How far one model has come; printed at every step, so that a process that dies tells."""

    def __init__(self) -> None:
        self.found: dict[str, Figure] = dict.fromkeys(FOUND)

    def at(self, stage: str) -> None:
        self.note(stage=stage)

    def note(self, **figures: Figure) -> None:
        self.found.update(figures)
        print(json.dumps(self.found), flush=True)


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def models() -> list[str]:
    """torchvision's classification models, in its order."""
    return list(torchvision.models.list_models(module=torchvision.models))


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """The model in eval mode, and inputs of the smallest size it takes, [INPUTS, 3, size, size]."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module
        if name in BUILT_FOR:
            network = timm.create_model(name, img_size=BUILT_FOR[name])
        elif name in TIMM:
            network = timm.create_model(name)
        else:
            network = torchvision.models.get_model(name)
    network.eval()
    inputs = _smallest(network)
    _enliven(network)
    norms = [module for module in network.modules() if isinstance(module, BatchNorm.TYPES)]
    for norm in norms:
        norm.train()
        norm.momentum = None
    with torch.no_grad():
        network(torch.randn(4 * INPUTS, *inputs.shape[1:]))
    for norm in norms:
        norm.eval()
        norm.get_buffer("running_mean").add_(0.1 * torch.randn(norm.num_features))
        norm.get_buffer("running_var").mul_(torch.empty(norm.num_features).uniform_(0.7, 1.5))
    return network, inputs


def _smallest(network: nn.Module) -> Tensor:
    for size in SIZES:
        inputs = torch.randn(INPUTS, 3, size, size)
        try:
            with torch.no_grad():
                network(inputs)
        except Exception:  # whatever a network says of an input that is too small
            continue
        return inputs
    raise ValueError(f"the network takes no input of {SIZES}")


def _enliven(network: nn.Module) -> None:
    """Weights under which every part matters: no head of zeros, no blocks scaled to 1e-6."""
    for name, parameter in network.named_parameters():
        owner = network.get_submodule(name.rpartition(".")[0])
        if name.endswith(("layer_scale", "gamma")):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.dim() > 1 and kind_of(owner) is not None:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif name.endswith("weight") and parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)


def ours(name: str, trial: Trial) -> None:
    """All the way with slimgate."""
    network, inputs = network_of(name)
    trial.note(stage="groups", size=inputs.shape[-1])
    prunable = find_prunable(network, inputs[:1])
    trial.at("prune")
    stats = collect(network, prunable.groups, (), cross_entropy, Magnitude.needs)
    limits = Limits(macs=MACS_RATIO * prunable.macs)
    choice = choose(prunable, stats, Selection(Magnitude(), Uniform()), limits)
    macs = prunable.macs_at(choice.counts())
    trial.note(stage="verify", macs_ratio=macs / prunable.macs)
    verify(prunable, choice.plan, inputs[:1])
    pruned = apply_plan(network, choice.plan)
    trial.note(stage="repair", same=True)
    samples = torch.randn(SAMPLES, *inputs.shape[1:])
    calibration = calibration_of_batches([(samples, np.zeros(SAMPLES, np.int64))])
    chain = (LeastSquares(),)
    (report,) = repair(pruned, network, choice.plan, chain, calibration, cross_entropy)
    trial.note(distance_before=report.distance_before, distance_after=report.distance_after)
    del network, prunable, stats  # the largest networks need the memory
    feeds = feeds_of(inputs.numpy(), False)
    refused: list[str] = []
    for method in METHODS:
        try:
            nodes, size = build(pruned, method, feeds, trial)
        except Exception as error:
            refused.append(f"{trial.found['stage']}: {said(error)}")
            trial.note(**{method: False})
            continue
        trial.note(**{method: True}, nodes=nodes, bytes=size)
        break
    if len(refused) == len(METHODS):
        raise StageError("; ".join(refused))
    trial.note(reason="; ".join(refused) or None)


def build(
    network: nn.Module, method: Method, feeds: list[FloatArray], trial: Trial
) -> tuple[int, int]:
    """Nodes and bytes of the engine of one exporter's graph, held to the torch network itself."""
    with TemporaryDirectory() as folder:
        path, engine = Path(folder) / "model.onnx", Path(folder) / "engine.onnx"
        trial.at(f"export {method}")
        exported, _ = export_by(method, network, feeds, OPSET, False)
        trial.at(f"simplify {method}")
        model = simplify(exported, feeds).model
        onnx.save(model, path)
        nodes = len(model.graph.node)
        del exported, model
        trial.at(f"build {method}")
        runtime = Ort()
        runtime.build(Source(path, np.concatenate(feeds), lambda: network), engine)
        trial.at(f"parity {method}")
        session = runtime.open(engine)
        parity = compare(torch_network(network), lambda batch: call_one(session, batch), feeds)
        require("all of it", parity)
        return nodes, engine.stat().st_size


def peers(name: str, trial: Trial) -> None:
    """As much of it as Torch-Pruning does, and the export."""
    network, inputs = network_of(name)
    trial.note(stage="prune", size=inputs.shape[-1])
    dense = copy.deepcopy(network)
    left: dict[str, IntArray] = {}
    trial.note(macs_ratio=prune_by_peer(network, inputs, MACS_RATIO, left))
    trial.at("compare")
    trial.note(same=difference_from_silence(network, dense, left, inputs) <= SAME)
    trial.at("export")
    exported = to_onnx(network, feeds_of(inputs.numpy(), False), OPSET, False)
    trial.note(nodes=len(exported.model.graph.node))


def child(name: str, peer: bool) -> None:
    """One row in this process."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    trial = Trial()
    try:
        (peers if peer else ours)(name, trial)
    except Exception as error:
        trial.note(ok=False, reason=said(error))
    else:
        trial.note(ok=True, stage="done")


def row_of(name: str, peer: str | None, timeout: float) -> Row:
    """One row by a process of its own, ended after `timeout` seconds."""
    command = [sys.executable, __file__, "--child", name, *(["--peer"] if peer else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    try:
        run = subprocess.run(command, capture_output=True, timeout=timeout, env=environment)
        told_by, end = run.stdout, f"the process ended with {run.returncode}"
    except subprocess.TimeoutExpired as expired:
        told_by, end = expired.stdout or b"", f"not done after {timeout:.0f} s"
    seconds = time.perf_counter() - start
    lines = [line for line in told_by.decode().splitlines() if line.startswith("{")]
    found: dict[str, Figure] = json.loads(lines[-1]) if lines else dict.fromkeys(FOUND)
    if found["ok"] is None:
        found.update(ok=bool(found["dynamo"]), reason=end)
    return {
        "model": name,
        "convolutional": not any(part in name for part in ATTENTION),
        "peer": peer,
        **found,
        "seconds": seconds,
    }


def all_rows(names: Iterable[str], folder: Path) -> Iterator[Row]:
    """Those in `folder` as they are, the others made anew and put there."""
    for name in names:
        for peer in (None, PEER):
            kept = folder / f"{name}-{peer or 'slimgate'}.json"
            if not kept.exists():
                kept.write_text(json.dumps(row_of(name, peer, TIMEOUT)))
            row: dict[str, Figure] = json.loads(kept.read_text())
            yield row


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], "--peer" in sys.argv)
        return
    options = parse_options(__doc__)
    with options.folder() as folder:
        names = [*TIMM, *(models() if options.full else ())]
        rows = list(told(all_rows(names, folder)))
    report(rows, {}, options)


if __name__ == "__main__":
    main()
