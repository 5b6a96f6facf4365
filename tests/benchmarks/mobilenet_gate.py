"""MobileNetV2 at 0.7 of its MACs without fine-tuning: the gate refuses it, or lets it pass.

`slimgate run` on torchvision's MobileNetV2 and 500 ImageNet images: every second one calibrates,
the others judge. Run `tight` may lose 2 % of top-1, `loose` as much as `tight` was found to lose
at worst, and `again` is `loose` once more on the same store.

Rows: network, peer, run, judged_on, top1_drop_limit, exit_code, verdict, reason, measured_drop,
lower, upper, macs_ratio, top1_dense, top1_shipped, latency_ratio and its bounds, latency_control,
cached, stages, stages_seconds, outside_measuring_s, seconds. `cached` of all `stages` came from
the store; `outside_measuring_s` is what the run took but for measuring. `--full` also judges on
the half that calibrated.
"""

import io
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from common import (
    Options,
    Row,
    Spread,
    latency_figures,
    numbers,
    parse_options,
    report,
    standard_error,
)
from PIL import Image

from pipeline.data.arrays import Bytes
from pipeline.release.bundle import read_measurement

NETWORK = "mobilenet_v2"
WEIGHTS = "imagenet_mobilenet_v2.safetensors"
TIGHT = 0.02
HALVES = ("odd", "even")
RECIPE = """
[task]
network = "torchvision:mobilenet_v2"
weights = "weights.safetensors"
data = "images.npz"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
resize = 256
size = 224
allow_missing_classes = true

[prune]
criterion = "pro"
allocator = "uniform"
macs_ratio = 0.7

[recover]
chain = ["bn_recalibrate"]

[target.budget]
top1_drop = {limit}
"""


class Check(TypedDict):
    """One budget item, as `--json` gives it."""

    name: str
    measured: float
    lower: float
    upper: float
    limit: float
    status: str
    reason: str


class StageRow(TypedDict):
    """One stage, as `--json` gives it."""

    cached: bool
    seconds: float


class TargetRow(TypedDict):
    """One device, as `slimgate run --json` prints it."""

    checks: list[Check]
    dense: dict[str, float]
    shipped: dict[str, float]


class Answer(TypedDict):
    """What `slimgate run --json` prints."""

    verdict: str
    targets: list[TargetRow]
    stages: list[StageRow]


@dataclass(frozen=True)
class Outcome:
    """One ended `slimgate run`."""

    exit_code: int
    answer: Answer
    bundle: Path
    seconds: float
    outside_s: float

    @property
    def target(self) -> TargetRow:
        """The one device."""
        (target,) = self.answer["targets"]
        return target

    @property
    def drop(self) -> Check:
        """The one item of the budget."""
        (check,) = self.target["checks"]
        return check


def prepare(data: Path, folder: Path, judged_on: str) -> None:
    """Weights and images: one half calibrates, `judged_on` judges."""
    shutil.copyfile(data / WEIGHTS, folder / "weights.safetensors")
    with np.load(data / "imagenet500a.npz", allow_pickle=False) as archive:
        blob, ends, labels = archive["blob"], archive["offsets"], archive["label"]
    images = np.stack([_decoded(blob[a:b]) for a, b in pairwise(ends)])
    labels = labels.astype(np.int64)
    judge = np.arange(len(labels)) % 2 == (judged_on == "odd")
    np.savez(
        folder / "images.npz",
        train_x=images[~judge],
        train_y=labels[~judge],
        val_x=images[judge],
        val_y=labels[judge],
    )


def _decoded(raw: Bytes) -> Bytes:
    with Image.open(io.BytesIO(raw.tobytes())) as picture:
        return np.asarray(picture.convert("RGB"))


def slimgate(folder: Path, name: str, limit: float) -> Outcome:
    """`slimgate run` in a process of its own, on the folder's store.

    Measuring begins with the first line on stderr that says so and ends when the first file of
    the bundle is written. Raises RuntimeError when the process ends without a verdict.
    """
    recipe, bundle = folder / f"{name}.toml", folder / f"{name}.bundle"
    recipe.write_text(RECIPE.format(limit=limit))
    script = Path(sys.executable).with_name("slimgate")
    command = [str(script), "run", str(recipe), "--cache", str(folder / "cache"), "--json"]
    start, measuring = time.time(), math.nan
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if line.startswith("measure ") and math.isnan(measuring):
                measuring = time.time()
        printed = process.stdout.read()
    end = time.time()
    if process.returncode not in (0, 1, 6) or math.isnan(measuring):
        raise RuntimeError(f"slimgate run ended with {process.returncode} and no verdict")
    measured = min(path.stat().st_mtime for path in bundle.iterdir())
    outside = (measuring - start) + (end - measured)
    answer = cast("Answer", json.loads(printed))
    return Outcome(process.returncode, answer, bundle, end - start, outside)


def row_of(run: str, judged_on: str, outcome: Outcome) -> Row:
    """One line of the table."""
    answer, target, drop = outcome.answer, outcome.target, outcome.drop
    stages = answer["stages"]
    return {
        "network": NETWORK,
        "peer": None,
        "run": run,
        "judged_on": judged_on,
        "top1_drop_limit": drop["limit"],
        "exit_code": outcome.exit_code,
        "verdict": answer["verdict"],
        "reason": drop["reason"],
        "measured_drop": drop["measured"],
        "lower": drop["lower"],
        "upper": drop["upper"],
        "macs_ratio": target["shipped"]["macs"] / target["dense"]["macs"],
        "top1_dense": target["dense"]["top1"],
        "top1_shipped": target["shipped"]["top1"],
        **latency_figures(read_measurement(outcome.bundle / "measurement.json").latency),
        "cached": sum(stage["cached"] for stage in stages),
        "stages": len(stages),
        "stages_seconds": sum(stage["seconds"] for stage in stages),
        "outside_measuring_s": outcome.outside_s,
        "seconds": outcome.seconds,
    }


def all_rows(options: Options, root: Path) -> Iterator[Row]:
    """Three runs for each half that judges."""
    for judged_on in HALVES if options.full else HALVES[:1]:
        folder = root / judged_on
        folder.mkdir(exist_ok=True)
        prepare(options.data, folder, judged_on)
        tight = slimgate(folder, "tight", TIGHT)
        yield row_of("tight", judged_on, tight)
        enough = math.ceil(100 * tight.drop["upper"]) / 100
        for run in ("loose", "again"):
            yield row_of(run, judged_on, slimgate(folder, "loose", enough))


def spread_of(rows: Sequence[Row], images: int) -> Spread:
    """`top1_dense`, `top1_shipped`: their largest standard errors; `latency_ratio`: the range
    over the runs on one engine; `latency_control`: the worst.
    """
    ratios = numbers((row for row in rows if row["judged_on"] == HALVES[0]), "latency_ratio")
    return {
        **{
            name: max(standard_error(rate, images) for rate in numbers(rows, name))
            for name in ("top1_dense", "top1_shipped")
        },
        "latency_ratio": max(ratios) - min(ratios),
        "latency_control": max(abs(c - 1) for c in numbers(rows, "latency_control")),
    }


def main() -> int:
    """Exit code 1 when a run did not end as it ought to."""
    options = parse_options(__doc__)
    with options.folder() as root:
        rows = list(all_rows(options, root))
        with np.load(root / HALVES[0] / "images.npz") as archive:
            images = len(archive["val_y"])
    report(rows, spread_of(rows, images), options)
    wanted = {"tight": 1, "loose": 0, "again": 0}
    return int(any(row["exit_code"] != wanted[str(row["run"])] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
