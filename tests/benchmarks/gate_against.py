"""How often a release passes beside itself, and one that is 5 % worse does, in real sessions.

Two engines of a network (the dense one and a narrower one, random weights) are measured in full in
several sessions; every ordered pair of sessions is a release measured anew beside the last one.
Rows: network, figure, worse, peer, sessions, pairs, passed, failed, inconclusive, known_to.

- `worse`: what the figure of the release measured anew is multiplied by
- `passed`, `failed`, `inconclusive`: parts of all pairs, by `gate --against` as it is by default
- `known_to`: the median over pairs of upper bound / change - 1; null for peers and for "all"
- figure "all": every figure that is measured must pass
- peer "medians": the same tolerance on the plain medians of the processes, whatever the noise
- peer "last figure": the bound of the new figure within 2 % of the last one's, 5 starts, as
  slimgate 51d5a2d did once the samples were good enough

`spread`: the standard deviation between sessions of the median time of the dense engine's calls and
of shipped / dense, as parts of the mean. The machine must be idle. `--data` is not read. With
`--cache` sessions are kept, and those that are there are not measured again. Takes about 20
minutes; `--full` measures three times as many sessions.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
import torchvision
from common import Row, parse_options, report
from real import told
from speedup import engine_of
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import releases

from exporters.exporter import reported_distributions
from exporters.worker import EngineFile
from pipeline.measure.places import ThisMachine
from pipeline.measure.sessions import EnginePair, Measure, start_engines, time_engines, timing_of
from pipeline.release.regression import against
from profiles.budget import Budget
from profiles.device import DeviceProfile, Identity
from profiles.figures import FIGURES, figures_of, shipped_samples
from profiles.gate import Check
from profiles.host import this_host
from profiles.limits import LAST_RELEASE, LIMITS
from profiles.measurement import Measurement, time_ratio, wall_ms

Network = Callable[[float], nn.Module]
"""A network of a width, as a part of the dense one's."""
SESSIONS = 10
WORSE = (1.0, 1.05)
WIDTH = 0.75
TOLERANCE, TOP1_DROP = 0.04, 0.01
TOLERANCE_BEFORE, STARTS_BEFORE = 0.02, 5
DEVICE = DeviceProfile(description="this machine", identity=Identity())
BUDGET = Budget(macs_ratio=0.9, latency_p95_ms=1e6)
MEASURED = [
    name for name, limit in LIMITS.items() if limit.compared_with_last and FIGURES[name].of_each
]


def mobilenet(width: float) -> nn.Module:
    network: nn.Module = torchvision.models.mobilenet_v2(width_mult=width)
    return network.eval()


def digits(width: float) -> nn.Module:
    """A small network of 28x28 digits, whose call takes a tenth of a millisecond."""
    channels = int(32 * width)
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10)),
    ).eval()


NETWORKS: Mapping[str, tuple[Network, tuple[int, ...]]] = {
    "mobilenet_v2": (mobilenet, (1, 3, 224, 224)),
    "digits": (digits, (1, 1, 28, 28)),
}


def engines(name: str, folder: Path) -> EnginePair:
    """The dense engine and a narrower one."""
    network, shape = NETWORKS[name]
    torch.manual_seed(0)
    inputs: Tensor = torch.randn(shape)
    dense, shipped = (
        EngineFile(runtime="ort", options=DEVICE.options(), path=str(path))
        for path in (
            engine_of(network(width), inputs, folder / f"{name}-{width}.onnx")
            for width in (1.0, WIDTH)
        )
    )
    return EnginePair(dense, shipped)


def session(pair: EnginePair) -> Measurement:
    """What a run measures of both engines, in a measurement whose counts and scores are made up."""
    place, settings = ThisMachine(), Measure()
    dense, shipped = start_engines(place, pair, DEVICE.batch, settings)
    runs = time_engines(place, pair, timing_of(DEVICE, BUDGET, settings))
    found = releases.measurement()
    return found.model_copy(
        update={
            "host": this_host(reported_distributions()),
            "dense": found.dense.model_copy(update={"starts": dense}),
            "shipped": found.shipped.model_copy(update={"starts": shipped}),
            "latency": runs,
        }
    )


def sessions(name: str, folder: Path, count: int) -> Iterator[Measurement]:
    """Those in `folder` as they are, the others measured and put there."""
    pair = engines(name, folder)
    for number in range(count):
        kept = folder / f"{name}-{number}.json"
        if not kept.exists():
            kept.write_text(session(pair).model_dump_json())
        yield Measurement.model_validate_json(kept.read_text())


Judge = Callable[[Measurement, Measurement], Mapping[str, str]]
"""The status of each figure of a session beside that of another one."""


def checks_of(now: Measurement, last: Measurement) -> dict[str, Check]:
    """The checks on what is measured, by figure."""
    new, old = (releases.release(releases.judged(one, BUDGET, DEVICE)) for one in (now, last))
    (target,) = against(new, old, TOLERANCE, TOP1_DROP).targets
    found = {check.name: check for check in target.verdict.checks}
    return {name: found[f"{LAST_RELEASE}{name}"] for name in MEASURED}


def by_gate(now: Measurement, last: Measurement) -> Mapping[str, str]:
    return {name: check.status for name, check in checks_of(now, last).items()}


def by_medians(now: Measurement, last: Measurement) -> Mapping[str, str]:
    found = {}
    for name in MEASURED:
        new, old = (np.median(_of_each(name, one)) for one in (now, last))
        found[name] = "pass" if new <= (1 + TOLERANCE) * old else "fail"
    return found


def _of_each(name: str, measurement: Measurement) -> Sequence[float]:
    of_each = FIGURES[name].of_each
    assert of_each is not None
    return of_each(shipped_samples(measurement))


def by_last_figure(now: Measurement, last: Measurement) -> Mapping[str, str]:
    new, old = (_with_few_starts(one) for one in (now, last))
    before = figures_of(shipped_samples(old))
    found = {}
    for name in MEASURED:
        figure, most = LIMITS[name].estimate(new), (1 + TOLERANCE_BEFORE) * before[name]
        beyond = "fail" if figure.lower > most else "inconclusive"
        found[name] = "pass" if figure.upper <= most else beyond
    return found


def _with_few_starts(found: Measurement) -> Measurement:
    few = found.shipped.model_copy(update={"starts": found.shipped.starts[:STARTS_BEFORE]})
    return found.model_copy(update={"shipped": few})


JUDGES: Mapping[str | None, Judge] = {
    None: by_gate,
    "medians": by_medians,
    "last figure": by_last_figure,
}


def all_rows(folder: Path, count: int) -> Iterator[Row]:
    """Every network, peer, factor and figure."""
    for name in NETWORKS:
        found = list(sessions(name, folder, count))
        for worse in WORSE:
            anew = [releases.scaled(one, shipped=worse, memory=worse) for one in found]
            pairs = [(anew[i], found[j]) for i, j in permutations(range(count), 2)]
            for peer, judge in JUDGES.items():
                statuses = [judge(now, last) for now, last in pairs]
                known = _known_to(pairs) if peer is None else {}
                for figure in (*MEASURED, "all"):
                    parts = Counter(_status(one, figure) for one in statuses)
                    yield {
                        "network": name,
                        "figure": figure,
                        "worse": worse,
                        "peer": peer,
                        "sessions": count,
                        "pairs": len(pairs),
                        **{
                            column: parts[status] / len(pairs)
                            for column, status in (
                                ("passed", "pass"),
                                ("failed", "fail"),
                                ("inconclusive", "inconclusive"),
                            )
                        },
                        "known_to": known.get(figure),
                    }


def _status(found: Mapping[str, str], figure: str) -> str:
    if figure != "all":
        return found[figure]
    statuses = set(found.values())
    return "fail" if "fail" in statuses else "inconclusive" if statuses != {"pass"} else "pass"


def _known_to(pairs: Sequence[tuple[Measurement, Measurement]]) -> dict[str, float]:
    found = [checks_of(now, last) for now, last in pairs]
    return {
        name: float(np.nanmedian([one[name].upper / one[name].measured - 1 for one in found]))
        for name in MEASURED
    }


def spread_of(folder: Path, count: int) -> dict[str, float]:
    """How far sessions differ, by network."""
    found = {}
    for name in NETWORKS:
        dense, ratio = [], []
        for one in sessions(name, folder, count):
            runs = [run.dense for run in one.latency]
            dense.append(wall_ms(runs, 50).measured)
            shipped = [run.shipped for run in one.latency]
            ratio.append(time_ratio(shipped, runs, "wall").measured)
        for figure, values in (("dense_p50", dense), ("shipped_over_dense_p50", ratio)):
            found[f"{name}_{figure}"] = float(np.std(values, ddof=1) / np.mean(values))
    return found


def main() -> None:
    options = parse_options(__doc__)
    count = SESSIONS * (3 if options.full else 1)
    with options.folder() as folder:
        rows = list(told(all_rows(folder, count)))
        report(rows, spread_of(folder, count), options)


if __name__ == "__main__":
    main()
