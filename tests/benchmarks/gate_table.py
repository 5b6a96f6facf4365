"""The gate's truth table: every limit under every fault, alone and in pairs.

Rows: metric, peer, cases, false_pass, false_refusal, worse_cases, turned.

- `cases`: judgements that the metric takes part in: tests/helpers/measurement_faults.py's evidence,
  good (within the limit, at the limit) and spoiled (over, NaN, infinite, missing, stale, of another
  device, few samples, throttled ...), alone and in every pair with another spoiled or good metric
- `false_pass`: those that pass with any fault in them; `false_refusal`: those without that do not
- `worse_cases`: random evidence, judged again after one value of it was made worse
- `turned`: those of them that passed only afterwards

`--data` is not read.
"""

import sys
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from common import Row, parse_options, report

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from known_measurement import COUNTS, METRICS, TIMES, Case, loose, run, weighed
from measurement_faults import ALL, FIELDS, GOOD

from profiles.limits import LIMITS

WORSE_CASES = 500
"""Of each metric."""

Judged = Counter[str]


def table() -> tuple[Judged, Judged, Judged]:
    """Cases, false passes and false refusals by metric."""
    cases, passed, refused = Judged(), Judged(), Judged()
    alone = [((metric,), spoil(loose(metric), metric), name in GOOD) for metric, name, spoil in ALL]
    for metrics, case, good in alone:
        _judge(metrics, case, good, cases, passed, refused)
    for (first, name, spoil), (second, other, ruin) in combinations(ALL, 2):
        case = ruin(spoil(loose(first, second), first), second)
        good = name in GOOD and other in GOOD
        _judge((first, second), case, good, cases, passed, refused)
    return cases, passed, refused


def _judge(
    metrics: tuple[str, ...],
    case: Case,
    good: bool,
    cases: Judged,
    passed: Judged,
    refused: Judged,
) -> None:
    found = case.verdict().status == "pass"
    for metric in set(metrics):
        cases[metric] += 1
        passed[metric] += found and not good
        refused[metric] += good and not found


def turned(metric: str, generator: np.random.Generator) -> bool:
    """Whether random evidence passes only after one of its values was made worse."""
    values = generator.uniform(0.5, 2, 8)
    worse = values.copy()
    worse[generator.integers(len(values))] *= generator.uniform(1, 3)
    make = MAKERS.get(metric, _counted)
    case, spoiled = (make(metric, list(v)) for v in (values, worse))
    limit = _limit(metric, case, generator)
    before, after = (one.limited(metric, limit).check().status for one in (case, spoiled))
    return before != "pass" and after == "pass"


def _limit(metric: str, case: Case, generator: np.random.Generator) -> float:
    """A limit near the figure, so that either verdict is likely."""
    measured = case.check().measured
    limit = float(max(measured, 1e-3) * generator.uniform(0.6, 1.6))
    if metric in ("macs", "parameters"):
        return max(1, round(limit))
    parts = ("macs_ratio", "parameters_ratio", "top1_drop", "top1_min")
    highest = 0.99 if metric in parts else np.inf
    return min(limit, highest)


def _counted(metric: str, values: list[float]) -> Case:
    """The count of which a whole number, or a part, is the value."""
    if metric == "parity_error":
        return loose(metric).shipped("parity_error", 1e-3 * values[0])
    return loose(metric).shipped(FIELDS[metric], round(sum(values) * 10))


def _scored(metric: str, values: list[float]) -> Case:
    lost = min(400, round(sum(values) * 10))
    return loose(metric).scored([0.0] * lost + [1.0] * (400 - lost))


def _timed(metric: str, values: list[float]) -> Case:
    return loose(metric).timed([run(shipped_ms=2 * value) for value in values])


def _started(metric: str, values: list[float]) -> Case:
    return loose(metric).weighed([weighed(40 + 20 * v, load_ms=8 * v) for v in values])


STARTED = ("first_inference_ms", "peak_memory_mib", "peak_memory_ratio", "steady_memory_mib")
MAKERS: dict[str, Callable[[str, list[float]], Case]] = {
    **dict.fromkeys(("top1_drop", "top1_min"), _scored),
    **dict.fromkeys(TIMES, _timed),
    **dict.fromkeys(STARTED, _started),
}


def main() -> None:
    options = parse_options(__doc__)
    assert set(METRICS) == {*MAKERS, *COUNTS, "parity_error"}
    assert set(METRICS) == set(LIMITS)
    cases, passed, refused = table()
    generator = np.random.default_rng(0)
    rows: list[Row] = [
        {
            "metric": metric,
            "peer": None,
            "cases": cases[metric],
            "false_pass": passed[metric],
            "false_refusal": refused[metric],
            "worse_cases": WORSE_CASES,
            "turned": sum(turned(metric, generator) for _ in range(WORSE_CASES)),
        }
        for metric in METRICS
    ]
    report(rows, {"false_pass": 0.0}, options)
    if any(row["false_pass"] or row["turned"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
