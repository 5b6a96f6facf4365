"""How often the gate ships an engine whose truth is known, by simulation.

Rows: noise, true_over_budget, peer, processes, draws, ship.

- `noise`: standard deviation between processes of the log of p50, as a fraction; beside it every
  call has 3 % of its own, and 1 % of the calls take twice as long
- `true_over_budget`: the median over all processes / the limit
- `ship`: the part of simulated sessions that the gate passes, each judged as a real one: samples
  of every call, an A/A control of the same noise, wall time in ms against `latency_p50_ms`
- peer "one run": the same limit against the plain median of one process of 1,000 calls, as tools
  without a gate have it

`--data` is not read; `--full` draws ten times as often.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import Row, parse_options, report, standard_error

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from known_measurement import LOOSE, Case, look, measurement

from pipeline.measure.sessions import Measure
from profiles.measurement import CallTimes, LatencyRun

NOISES = (0.005, 0.02, 0.05)
TRUTHS = (1.03, 1.01, 1.0, 0.97, 0.95)
LIMIT_MS = 10.0
CALL_NOISE = 0.03
SPIKES = 0.01
BLOCKS, CALLS = 6, 10
DRAWS = 1000


def call_ms(level: float, count: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Times [count] of calls in one process at this level, ms."""
    times = level * np.exp(CALL_NOISE * generator.standard_normal(count))
    return np.where(generator.random(count) < SPIKES, 2 * times, times)


def process(truth: float, noise: float, generator: np.random.Generator) -> LatencyRun:
    """One fresh process: its own level for all engines, as memory layout and clock have it."""
    level = float(np.exp(noise * generator.standard_normal()))
    dense, control, shipped = (_calls(of * level * LIMIT_MS, generator) for of in (1.5, 1.5, truth))
    return LatencyRun(
        dense=dense,
        control=control,
        shipped=shipped,
        frames_ns=(),
        energy_mj=None,
        warm=True,
        conditions=(look(0), look(2)),
    )


def _calls(level_ms: float, generator: np.random.Generator) -> CallTimes:
    times = tuple((1e6 * call_ms(level_ms, BLOCKS * CALLS, generator)).astype(int).tolist())
    return CallTimes(wall_ns=times, cpu_ns=times, blocks=(CALLS,) * BLOCKS)


def ships(truth: float, noise: float, generator: np.random.Generator) -> bool:
    """Whether one session ends in a pass."""
    runs = [process(truth, noise, generator) for _ in range(Measure().processes)]
    case = Case(measurement(), {"latency_p50_ms": LOOSE["latency_p50_ms"]})
    return case.timed(runs).limited("latency_p50_ms", LIMIT_MS).check().status == "pass"


def one_run_ships(truth: float, noise: float, generator: np.random.Generator) -> bool:
    """Whether the plain median of one process is within the limit."""
    level = truth * LIMIT_MS * float(np.exp(noise * generator.standard_normal()))
    return float(np.median(call_ms(level, 1000, generator))) <= LIMIT_MS


def all_rows(draws: int) -> Iterator[Row]:
    """Every noise and truth, by the gate and by one run."""
    generator = np.random.default_rng(0)
    for noise in NOISES:
        for truth in TRUTHS:
            for peer, trial in ((None, ships), ("one run", one_run_ships)):
                passed = sum(trial(truth, noise, generator) for _ in range(draws))
                yield {
                    "noise": noise,
                    "true_over_budget": truth,
                    "peer": peer,
                    "processes": Measure().processes if peer is None else 1,
                    "draws": draws,
                    "ship": passed / draws,
                }


def main() -> None:
    options = parse_options(__doc__)
    draws = DRAWS * (10 if options.full else 1)
    report(list(all_rows(draws)), {"ship": standard_error(0.5, draws)}, options)


if __name__ == "__main__":
    main()
