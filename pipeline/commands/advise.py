"""`slimgate advise`: where a network's time goes on its target, and what pruning could make of it.

Trains nothing and prunes nothing: layers are timed alone, and networks foretold from them.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from exporters.exporter import exporter_class
from exporters.worker import CompareJob
from pipeline.flow import Flow
from pipeline.measure.layer_bench import compared
from pipeline.measure.places import place_of
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.measure.sessions import engine_file
from pipeline.network.costs import Counts
from pipeline.network.layer_times import NetworkTimes
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Limits, smallest_counts
from pipeline.prune.choose import Selection, choose
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.prunable import PrunableNetwork
from pipeline.prune.subject import Subject
from pipeline.report.text import aligned
from pipeline.stages.build import Build
from pipeline.stages.prune import Prune
from profiles.errors import ConfigError, SlimgateError

RATIOS = (0.9, 0.7, 0.5, 0.3)
"""The parts of the MACs at which networks are foretold, besides the smallest."""
SAMPLES = 64
"""Calibration samples for the errors that are foretold, at most."""
ROUNDS = 30
LITTLE, SOME, HALF = 0.9, 0.85, 0.6
"""Pruning is not worth it where the smallest network takes more of the time than the first, or
about half of the MACs, at most the third, more than the second."""
SHOWN_BLOCKS, SHOWN_LAYERS = 12, 3


@dataclass(frozen=True)
class Foretold:
    """A network that was not built."""

    macs_ratio: float
    time_ratio: float
    """Of the dense network's time, by the times of its layers."""
    error: float | None
    """The mean relative error of what groups hand on, by their reconstruction curves: from 0, all
    of it is there, to 1, nothing is; None where a group has no curve."""


@dataclass(frozen=True)
class Advice:
    """What is known of one target before anything is pruned."""

    target: str
    engine: str
    precision: str
    dense_ms: float
    """The median time of one call of the dense engine, on the clock of its ratios."""
    int8_ratio: float | None
    """The time of the dense network at int8 over that; None where it is not told."""
    blocks_ms: Mapping[str, float]
    """Where the time goes, by the times of layers alone."""
    reachable: float
    """The part of the time that is gone in the smallest network."""
    networks: Sequence[Foretold]
    """From the largest to the smallest that `prune` allows."""
    widths: Mapping[str, Sequence[int]]
    """The numbers of channels of each group at which time falls."""
    slowest_ms: Mapping[str, float]
    """The layers that take most in the smallest network."""

    @property
    def verdict(self) -> str:
        """One sentence of advice."""
        smallest = self.networks[-1]
        slowest = ", ".join(self.slowest_ms)
        if smallest.time_ratio > LITTLE:
            return (
                f"not worth it: even the smallest network that prune allows takes "
                f"{smallest.time_ratio:.2f} of the time (the slowest layers left: {slowest})"
            )
        half = min(self.networks, key=lambda one: abs(one.macs_ratio - 0.5))
        if half.time_ratio > SOME and half.macs_ratio < HALF:
            return (
                f"not worth it: with {half.macs_ratio:.2f} of the MACs it still takes "
                f"{half.time_ratio:.2f} of the time, bound by something else than MACs"
            )
        gain = f"{half.time_ratio:.2f} of the time with {half.macs_ratio:.2f} of the MACs"
        if self.int8_ratio is not None and self.int8_ratio < half.time_ratio:
            return (
                f"int8 first: it takes {self.int8_ratio:.2f} of the time and keeps all channels; "
                f"pruning comes to {gain}"
            )
        return f"worth it: {gain}, down to {smallest.time_ratio:.2f} of the time at the smallest"


def advise(flow: Flow) -> list[Advice]:
    """Advice for each target. Raises ConfigError where a runtime's layers foretell nothing."""
    for target in flow.targets:
        if not target.times_layers():
            raise ConfigError(
                f"{target.name}: the layers of {target.device.engine} at {target.device.precision} "
                "do not foretell the time of a network; advice is there for ort"
            )
    return [_advice(flow, target) for target in flow.targets]


def _advice(flow: Flow, target: ResolvedTarget) -> Advice:
    times = flow.timed_layers(target).times()
    dense_ms, int8_ms = _whole_ms(flow, target)
    prune = flow.recipe.prune.by(Selection())
    prune = prune.model_copy(update={"samples": min(SAMPLES, prune.samples), "blocks": 0})
    subject = prune.subject(flow.dense).timed([times])
    networks, slowest = _foretold(prune, subject, times, dense_ms)
    (widths,) = prune.widths(subject.prunable)
    return Advice(
        target=target.name,
        engine=target.device.engine,
        precision=target.device.precision,
        dense_ms=dense_ms,
        int8_ratio=None if int8_ms is None else int8_ms / dense_ms,
        blocks_ms=_blocks(times),
        reachable=1 - networks[-1].time_ratio,
        networks=networks,
        widths={
            group.name: [int(units) * group.channels // group.size for units in stairs.units]
            for group in subject.prunable.groups
            for stairs in [widths.staircases[group.name]]
        },
        slowest_ms=slowest,
    )


def _foretold(
    prune: Prune, subject: Subject, times: NetworkTimes, dense_ms: float
) -> tuple[list[Foretold], dict[str, float]]:
    """Networks from the largest to the smallest, and the milliseconds that layers take in that."""
    prunable, groups = subject.prunable, subject.prunable.groups
    costs = prunable.macs_model.over(groups)
    (widths,) = prune.widths(prunable)
    smallest = smallest_counts(groups, widths)
    stats = prune.statistics(subject)
    errors = {name: layer.elimination.errors for name, layer in stats.items() if layer.elimination}
    known = all(group.name in errors for group in groups)
    selection = Selection(widths=widths) if known else Selection(Magnitude(), Uniform(), widths)
    found = []
    for ratio in RATIOS:
        limits = Limits(macs=ratio * prunable.macs)
        if costs.at(smallest).macs < ratio * prunable.macs:
            found.append(choose(prunable, stats, selection, limits).counts())
    foretold = []
    for counts in (*found, smallest):
        cost = costs.at(counts)
        lost = [errors[name][kept] for name, kept in counts.items() if known]
        foretold.append(
            Foretold(
                macs_ratio=cost.macs / prunable.macs,
                time_ratio=times.of_network(cost.time, dense_ms),
                error=float(np.mean(lost)) if known else None,
            )
        )
    return foretold, _slowest(prunable, smallest, times)


def _slowest(prunable: PrunableNetwork, counts: Counts, times: NetworkTimes) -> dict[str, float]:
    """The layers that take most when groups keep `counts` of their units, ms."""
    left = {}
    for name, runs in times.layers.items():
        alone = replace(prunable.macs_model, times=(NetworkTimes(layers={name: runs}),))
        part = alone.over(prunable.groups).at(counts).time
        left[name] = part * sum(run.ms for run in runs)
    return {name: left[name] for name in sorted(left, key=lambda name: -left[name])[:SHOWN_LAYERS]}


def _blocks(times: NetworkTimes) -> dict[str, float]:
    """Milliseconds by block: the module at the top, and its part where that is numbered."""
    blocks: dict[str, float] = {}
    for name, runs in times.layers.items():
        first, *rest = name.split(".")
        block = f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
        blocks[block] = blocks.get(block, 0.0) + sum(run.ms for run in runs)
    return blocks


def _whole_ms(flow: Flow, target: ResolvedTarget) -> tuple[float, float | None]:
    """The median time of the dense engine, and of one at int8 if the runtime has such engines."""
    device = target.device
    engines = {"dense": engine_file(flow.built_dense(target).path, device)}
    lower = device.model_copy(
        update={"precision": "int8", "portable": device.portable or target.ssh is not None}
    )
    build = Build(engine=device.engine, options=lower.options())
    with TemporaryDirectory() as folder, place_of(target.ssh) as place:
        if device.precision != "int8" and "int8" in exporter_class(device.engine).PRECISIONS:
            # Too few images for its ranges, or an operator that it lacks.
            with suppress(SlimgateError):
                build.make(flow.exported_dense(), Path(folder))
                engines["int8"] = engine_file(build.path(Path(folder)), lower)
        job = CompareJob(engines=engines, batch=device.batch, rounds=ROUNDS, seed=0)
        found = compared(place, job, device.clock)
    ms = {name: median(times) / 1e6 for name, times in found.items()}
    return ms["dense"], ms.get("int8")


def advice_json(found: Sequence[Advice]) -> str:
    """One versioned object."""
    targets = [{**asdict(one), "verdict": one.verdict} for one in found]
    return json.dumps({"schema_version": 1, "targets": targets}, indent=1, allow_nan=False)


def advice_text(found: Sequence[Advice]) -> str:
    """A section for each target, its sentence of advice first."""
    return "\n\n".join(_text(one) for one in found)


def _text(one: Advice) -> str:
    layers_ms = sum(one.blocks_ms.values())
    slowest = sorted(one.blocks_ms.items(), key=lambda block: -block[1])[:SHOWN_BLOCKS]
    blocks = [
        ("block", "ms alone", "of all layers"),
        *((name, f"{ms:.3f}", f"{ms / layers_ms:.0%}") for name, ms in slowest),
    ]
    networks = [
        ("MACs", "time, foretold", "error, foretold"),
        *(
            (
                f"{network.macs_ratio:.3f}",
                f"{network.time_ratio:.3f}",
                "unknown" if network.error is None else f"{network.error:.3f}",
            )
            for network in one.networks
        ),
    ]
    widths = [
        ("group", "widths at which time falls"),
        *((name, " ".join(map(str, kept))) for name, kept in one.widths.items()),
    ]
    int8 = "" if one.int8_ratio is None else f"; at int8 {one.int8_ratio:.2f} of that"
    return "\n".join(
        [
            f"{one.target}: {one.verdict}",
            "",
            f"{one.engine} at {one.precision}: {one.dense_ms:.3f} ms{int8}; "
            f"pruning reaches {one.reachable:.0%} of it",
            "",
            *(aligned(table) + "\n" for table in (networks, blocks, widths)),
        ]
    ).rstrip()
