"""Which files a maintenance task touches: `python tests/helpers/maintenance.py [CHECKOUT]`.

A task is "add one more of these"; its files are those that name, in their text or by their own
name, one that is there already. Files that find the new one by themselves are not counted.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rooms import LAYERS, ROOT

TASKS: Mapping[str, str] = {
    "add a criterion": r"\bfluctuation\b|\bFluctuation\b",
    "add a prunable kind of layer": (
        r"ConvTranspose|TRANSPOSED|CONVOLUTIONS|is_depthwise|isinstance\([^\n]*nn\.(Linear|Conv)"
    ),
    "add a limit": r"\bframe_p95_ms\b",
    "add an engine": r"\bopenvino\b|\bOpenVino\b",
    "add a kind of data set": r"\bnpz\b",
    "add a recovery": r"bias_compensate|BiasCompensate",
    "add a device": r"raspberry-pi-5",
    "add a section of the report": r"CheckReport|kendall_tau",
    "change how p95 is bounded": r"quantile_bounds|MIN_SAMPLES",
    "mend an exporter": r"\A[^\n]*[/_]ncnn\.py\n",
}
"""What names the one that is there, in a text of which the file's own name is the first line."""
SUFFIXES = {".py", ".toml", ".j2", ".md"}


def touched(checkout: Path, task: str) -> list[str]:
    """The files of a task, relative to the checkout; no results of benchmarks."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return [
        name
        for name in listed.stdout.split()
        if Path(name).suffix in SUFFIXES and name != "tests/helpers/maintenance.py"
        if re.search(TASKS[task], f"{name}\n{(checkout / name).read_text()}")
    ]


def main() -> None:
    checkout = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    print("| task | files | code | tests | others |")
    print("| --- | --: | --- | --- | --- |")
    for task in TASKS:
        names = touched(checkout, task)
        code = [name for name in names if name.partition("/")[0] in LAYERS]
        tests = [name for name in names if name.startswith("tests/")]
        others = [name for name in names if name not in (*code, *tests)]
        cells = (", ".join(part) for part in (code, tests, others))
        print(f"| {task} | {len(names)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
