"""Whether the engines shipped to 64-bit ARM give there what they give here, without a board.

ONNX Runtime's and ncnn's own aarch64 wheels run our engines, opened by our code, under QEMU's
user-mode emulation. Agreement only: emulated time says nothing of ARM's. Rows: network, runtime,
precision, processor, peer, ok, error, top1_agreement, decided, error_here, seconds.

- MobileNetV2 and ResNet-18 at half of their MACs, with the weights of `--data` if any; 8 inputs
- processor: the one QEMU acts as; a Cortex-A76 computes in fp16, a Cortex-A53 does not
- error, top1_agreement: against the ONNX model in ONNX Runtime on this machine, every optimisation
  off, held to the tolerance of the precision (`ok`)
- error_here: the same engine against that model on this machine

Needs Debian's `apt-get` and `dpkg`, its package qemu-user (`qemu-aarch64`), and `uv`; fetches 12 MB
of Debian's arm64 packages and the wheels into `--cache`, or a temporary folder. `--full` changes
nothing.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import Row, parse_options, report
from real import told
from shapes import load, pruned

from exporters.arrays import FloatArray
from exporters.exporter import Source, call_one, runtime
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import to_onnx
from exporters.parity import TOLERANCES, Parity, compare, feeds_of
from exporters.worker import EngineFile
from pipeline.prune.channel_counts import Widths
from profiles.device import EngineOptions, Precision
from profiles.machine.facts import versions

NETWORKS = ("mobilenet_v2", "resnet18")
ENGINES: tuple[tuple[str, Precision], ...] = (
    ("ort", "fp32"),
    ("ort", "int8"),
    ("ncnn", "fp32"),
    ("ncnn", "fp16"),
)
PROCESSORS = {"cortex-a76": "0xd0b", "cortex-a53": "0xd03"}
"""With the part number by which ONNX Runtime knows them."""
FEATURES = {
    "cortex-a76": "fp asimd crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp",
    "cortex-a53": "fp asimd crc32 cpuid",
}
PYTHON = "python3.11"
PACKAGES = (
    *("libc6", "libstdc++6", "libgcc-s1", "libgomp1", "zlib1g", "libexpat1", "libffi8", "libssl3"),
    *("libbz2-1.0", "liblzma5", "libuuid1"),
    *(f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib"),
)
WHEELS = ("numpy", "onnxruntime", "ncnn", "pydantic")
MACS_RATIO = 0.5
INPUTS = 8
OPSET = 20
RUNNER = """
import sys
import numpy as np
from exporters.exporter import call_one
from exporters.worker import EngineFile
session = EngineFile.model_validate_json(sys.stdin.read()).opened()
inputs = np.load(sys.argv[1])
np.save(sys.argv[2], np.stack([call_one(session, inputs[i : i + 1]) for i in range(len(inputs))]))
"""


@dataclass(frozen=True)
class Board:
    """A 64-bit ARM system in a folder, with Python and the runtimes."""

    root: Path
    site: Path

    def outputs(self, engine: EngineFile, inputs: Path, processor: str) -> FloatArray:
        """Of the engine for each input, [n, 1, ...]."""
        (self.root / "proc" / "cpuinfo").write_text(_cpuinfo(processor))
        answer = inputs.with_name("answer.npy")
        repository = Path(__file__).parents[2]
        subprocess.run(
            [
                *("qemu-aarch64", "-cpu", processor, "-L", str(self.root)),
                *(str(self.root / "usr" / "bin" / PYTHON), "-c", RUNNER, str(inputs), str(answer)),
            ],
            input=engine.model_dump_json(),
            text=True,
            check=True,
            env={
                "PYTHONHOME": str(self.root / "usr"),
                "PYTHONPATH": f"{self.site}:{repository}",
                "OMP_NUM_THREADS": "1",
            },
        )
        found: FloatArray = np.load(answer, allow_pickle=False)
        return found


def board(folder: Path) -> Board:
    """Fetched and unpacked, if it is not there yet."""
    made = Board(folder / "root", folder / "site")
    if made.site.exists():
        return made
    state = folder / "apt"
    debs = folder / "debs"
    for path in (state / "lists" / "partial", state / "cache" / "archives" / "partial", debs):
        path.mkdir(parents=True, exist_ok=True)
    apt = [
        "apt-get",
        *(f"-oDir::State::Lists={state / 'lists'}", f"-oDir::Cache={state / 'cache'}"),
        *("-oDir::State::status=/dev/null", "-oAPT::Sandbox::User=root", "-qq"),
        *("-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64"),
    ]
    run([*apt, "update"])
    run([*apt, "download", *(f"{name}:arm64" for name in PACKAGES)], debs)
    for deb in sorted(debs.iterdir()):
        run(["dpkg", "-x", str(deb), str(made.root)])
    (made.root / "proc").mkdir()
    wheels = ["--python-platform", "aarch64-unknown-linux-gnu", "--only-binary", ":all:"]
    target = folder / "site.part"
    run([uv(), "pip", "install", "-q", "--target", str(target), "--python-version",
         PYTHON.removeprefix("python"), *wheels, *pinned()])  # fmt: skip
    target.rename(made.site)
    return made


def uv() -> str:
    """Beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def pinned() -> list[str]:
    """The wheels in the versions that are installed here."""
    return [f"{name}=={version}" for name, version in versions(WHEELS).items()]


def run(command: list[str], cwd: Path | None = None) -> None:
    """Its output goes to stderr, where progress goes."""
    subprocess.run(
        command, cwd=cwd, check=True, stdout=sys.stderr, env={**os.environ, "LC_ALL": "C"}
    )


def _cpuinfo(processor: str) -> str:
    """What Linux says on such a board: the runtimes read it, and must not read this machine's."""
    return (
        f"processor\t: 0\nFeatures\t: {FEATURES[processor]}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {PROCESSORS[processor]}\n"
        "CPU revision\t: 1\n\n"
    )


def all_rows(data: Path, folder: Path) -> Iterator[Row]:
    made = board(folder / "board")
    torch.manual_seed(0)
    inputs = torch.randn(64, 3, 224, 224)
    np.save(folder / "inputs.npy", inputs[:INPUTS].numpy())
    feeds = feeds_of(inputs[:INPUTS].numpy(), False)
    for name in NETWORKS:
        network = pruned(load(name, data), inputs, MACS_RATIO, Widths(multiple=8, floor=8))
        model = simplify(to_onnx(network, feeds, OPSET, False).model, feeds).model
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        source = Source(path, inputs.numpy(), lambda network=network: network)  # type: ignore[misc]
        reference = plain_network(path.read_bytes())
        for kind, precision in ENGINES:
            options = EngineOptions(precision=precision, portable=True)
            exporter = runtime(kind, options)
            engine = folder / f"{name}-{kind}-{precision}{exporter.suffix}"
            exporter.build(source, engine)
            session = exporter.open(engine)
            here = compare(reference, lambda feed: call_one(session, feed), feeds)  # noqa: B023
            file = EngineFile(runtime=kind, options=options, path=str(engine))
            for processor in PROCESSORS:
                start = time.perf_counter()
                outputs = iter(made.outputs(file, folder / "inputs.npy", processor))
                found = compare(reference, lambda _: next(outputs), feeds)  # noqa: B023
                yield {
                    **{"network": name, "runtime": kind, "precision": precision},
                    **{"processor": processor, "peer": None, "ok": allowed(found, precision)},
                    "error": found.error,
                    "top1_agreement": found.top1_agreement,
                    "decided": found.decided,
                    "error_here": here.error,
                    "seconds": time.perf_counter() - start,
                }


def allowed(found: Parity, precision: Precision) -> bool:
    """Whether the tolerance of the precision holds."""
    tolerance = TOLERANCES[precision]
    return found.error <= tolerance.error and found.top1_agreement >= tolerance.top1_agreement


def main() -> int:
    """Exit code 1 where an engine differs, 2 where something it needs is absent."""
    options = parse_options(__doc__)
    missing = [name for name in ("qemu-aarch64", "apt-get", "dpkg") if shutil.which(name) is None]
    if missing:
        print(f"not found: {', '.join(missing)}; see --help", file=sys.stderr)
        return 2
    with options.folder() as folder:
        rows = list(told(all_rows(options.data, folder)))
    report(rows, {}, options)
    return int(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
