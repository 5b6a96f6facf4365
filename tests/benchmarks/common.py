"""What all benchmarks share: their arguments, and one JSON object or a table of rows.

`python tests/benchmarks/NAME.py --data DIR --json` prints `rows`, `machine`, `versions` and
`spread`; without `--json` it prints a table. A row's `peer` is null for slimgate itself.
`spread` is, by figure, how far equal runs may differ.
"""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from exporters.exporter import reported_distributions
from profiles.host import this_host
from profiles.measurement import LatencyRun, time_ratio

Figure = str | float | None
Row = Mapping[str, Figure]
Spread = Mapping[str, float]


@dataclass(frozen=True)
class Options:
    """The arguments of a benchmark."""

    data: Path
    as_json: bool
    full: bool
    cache: Path | None

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """The folder of `--cache`, or a temporary one."""
        if self.cache is not None:
            self.cache.mkdir(parents=True, exist_ok=True)
            yield self.cache.resolve()
            return
        with TemporaryDirectory() as name:
            yield Path(name)


def parse_options(about: str | None) -> Options:
    """The arguments; progress goes to stderr."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of data and weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--full", action="store_true", help="more, for longer than 20 minutes")
    parser.add_argument("--cache", type=Path, help="keep results here; a temporary folder else")
    found = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("slimgate").setLevel(logging.INFO)
    return Options(found.data.resolve(), found.json, found.full, found.cache)


def latency_figures(runs: Sequence[LatencyRun]) -> dict[str, Figure]:
    """Shipped / dense CPU time with its bounds, and dense / dense, which ought to be 1."""
    dense = [run.dense for run in runs]
    ratio = time_ratio([run.shipped for run in runs], dense, "cpu")
    control = time_ratio([run.control for run in runs], dense, "cpu")
    return {
        "latency_ratio": ratio.measured,
        "latency_lower": ratio.lower,
        "latency_upper": ratio.upper,
        "latency_control": control.measured,
    }


def standard_error(rate: float, count: int) -> float:
    """Of a rate found on `count` independent samples."""
    return math.sqrt(rate * (1 - rate) / count)


def numbers(rows: Iterable[Row], name: str) -> list[float]:
    """The column `name`, where it is a number."""
    return [value for row in rows if isinstance(value := row.get(name), float)]


def report(rows: Sequence[Row], spread: Spread, options: Options) -> None:
    """Print everything on stdout."""
    host = this_host(reported_distributions()).model_dump()
    versions = host.pop("versions")
    load = round(os.getloadavg()[0], 2)
    if options.as_json:
        whole = {
            "rows": [{name: _rounded(value) for name, value in row.items()} for row in rows],
            "machine": {**host, "load_1min": load},
            "versions": versions,
            "spread": {name: _rounded(value) for name, value in spread.items()},
        }
        print(json.dumps(whole, indent=1, allow_nan=False))
        return
    print(table(rows))
    print("\nspread: " + ", ".join(f"{name} {value:.4g}" for name, value in spread.items()))
    print(f"machine: {host['cpu']}, {host['cores']} cores, {host['system']}, load {load}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned columns, named by the first row's keys."""
    lines = [list(rows[0]), *([_cell(row[name]) for name in rows[0]] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _rounded(value: Figure) -> Figure:
    """Six digits; a number that is not finite is null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _cell(value: Figure) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
