"""The bundle: what ships, with the evidence. Judging one needs no torch and no runtime."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from exporters.exporter import resolved_device
from pipeline.data.digest import file_digest
from pipeline.release.consistency import require_consistent
from pipeline.release.terms import AllTerms, Terms
from pipeline.store.exchange import restore, take_place
from pipeline.store.files import disk_faults, write_json
from pipeline.store.manifest import MANIFEST, manifest_fault, publish, write_manifest
from pipeline.store.reports import PruneReport
from pipeline.store.runner import StageRecord
from profiles.errors import ConfigError, IntegrityError
from profiles.figures import dense_samples, figures_of, shipped_samples
from profiles.gate import EngineForDevice, Outcome, Verdict, judge, worst
from profiles.measurement import Measurement
from profiles.spec import Spec, explain, read_json, read_spec, read_text
from profiles.waiver import NO_WAIVERS, AcceptedWaivers, Waiver

SCHEMA_VERSION = 2
MAX_MEASUREMENT_BYTES = 1 << 28
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
ALWAYS = ("targets.json", "prune.json", "verdict.json", "model.onnx", "plan.json")
"""Files that are in every bundle."""


@dataclass(frozen=True)
class Judged:
    """The evidence on one target, and the verdict on it."""

    terms: Terms
    engine: EngineForDevice
    """The engine that stands in the bundle, whether it was measured or not."""
    measurement: Measurement
    verdict: Verdict

    def dense(self) -> dict[str, float]:
        """The dense network's figures."""
        return figures_of(dense_samples(self.measurement))

    def shipped(self) -> dict[str, float]:
        """The figures of the engine that would ship."""
        return figures_of(shipped_samples(self.measurement))


@dataclass(frozen=True)
class Release:
    """All targets of a bundle, judged."""

    pruned: PruneReport
    targets: tuple[Judged, ...]

    @property
    def status(self) -> Outcome:
        """The worst of them decides."""
        return worst([target.verdict.status for target in self.targets])


def judge_bundle(folder: Path, waivers: Sequence[Waiver] = (), today: date = date.max) -> Release:
    """Judge a bundle anew from its raw samples alone; waivers valid `today` raise limits.

    Raises IntegrityError when any file differs from the manifest or its files contradict one
    another, ConfigError when the folder is no bundle.
    """
    check_bundle(folder)
    accepted = AcceptedWaivers(tuple(waivers), today)
    found = []
    for terms in read_spec(folder / "targets.json", AllTerms).targets:
        measurement = read_measurement(folder / terms.measurement)
        # Bundles of before devices had `gpu` do not tell it.
        terms = terms.model_copy(update={"device": resolved_device(terms.device)})
        found.append(judge_target(terms, measurement, folder / terms.engine, accepted))
        require_consistent(folder, terms, measurement)
    return Release(read_spec(folder / "prune.json", PruneReport), tuple(found))


def judge_target(
    terms: Terms,
    measurement: Measurement,
    engine_path: Path,
    accepted: AcceptedWaivers = NO_WAIVERS,
) -> Judged:
    """The verdict on a measurement of the engine at `engine_path` under a target's terms."""
    engine = EngineForDevice(file_digest(engine_path), terms.device_name, terms.device)
    return Judged(terms, engine, measurement, judge(measurement, terms.budget, engine, accepted))


def check_bundle(folder: Path) -> None:
    """Raise unless every file of the bundle is as its manifest says."""
    if not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder}: not a bundle (it has no {MANIFEST})")
    try:
        fault = manifest_fault(folder)
    except ConfigError as error:
        fault = str(error)
    if fault:
        raise IntegrityError(f"{fault}: do not ship this bundle, make it again")


def check_replaceable(folder: Path) -> None:
    """Raise ConfigError for a folder that holds anything but a bundle, just as it was written."""
    if not folder.exists():
        return
    advice = "choose another --out, or move it away"
    if not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder}: exists and is not a bundle; {advice}")
    try:
        fault = manifest_fault(folder) or _missing_part(folder)
    except ConfigError as error:
        fault = str(error)
    if fault:
        raise ConfigError(f"{folder}: is not a bundle as slimgate wrote it ({fault}); {advice}")


def _missing_part(folder: Path) -> str:
    """What every bundle has, and this folder has not."""
    missing = [name for name in ALWAYS if not (folder / name).is_file()]
    return f"it has no {missing[0]}" if missing else ""


def read_measurement(path: Path) -> Measurement:
    """The raw evidence. NaN is read as it stands, for the gate to refuse.

    Raises ConfigError for what cannot be read, a key that comes twice, and values of a wrong type.
    """
    text = read_text(path, MAX_MEASUREMENT_BYTES)
    try:
        data = _with_infinities(read_json(text))
        return Measurement.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, Measurement, str(path))) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_infinities(value: object) -> object:
    """The value with numbers in place of what `Evidence` writes for those that are not finite."""
    if isinstance(value, dict):
        return {key: _with_infinities(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_infinities(one) for one in value]
    return float(value) if isinstance(value, str) and value in NOT_FINITE else value


def write_bundle(
    folder: Path,
    files: Mapping[str, Path],
    specs: Mapping[str, Spec],
    found: Release,
    pages: Mapping[str, str],
) -> None:
    """Write a bundle beside `folder`, then let it take the place of an older bundle there.

    `files` are copied under their names, `specs` written as JSON, `pages` as they are. At every
    moment the old bundle or the new one is there whole. One writer at a time: what a killed one
    left beside the folder is removed. Raises ConfigError where `folder` is anything else.
    """
    work, aside = (folder.with_name(f".{folder.name}.slimgate-{end}") for end in ("new", "old"))
    with disk_faults(folder):
        restore(folder, aside)
        check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            for name, path in files.items():
                shutil.copyfile(path, work / name)
            for name, spec in specs.items():
                write_json(work / name, spec)
            terms = tuple(target.terms for target in found.targets)
            write_json(work / "targets.json", AllTerms(targets=terms))
            write_json(work / "prune.json", found.pruned)
            for target in found.targets:
                write_json(work / target.terms.measurement, target.measurement)
            (work / "verdict.json").write_text(verdict_json(found, [], None) + "\n")
            for name, page in pages.items():
                (work / name).write_text(page, encoding="utf-8")
            write_manifest(work, 0.0)
            if folder.exists():
                take_place(work, folder, aside)
            else:
                publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def verdict_json(found: Release, stages: Sequence[StageRecord], bundle: Path | None) -> str:
    """One versioned object; a figure that is not finite is null."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "verdict": found.status,
        "targets": [_target_json(target) for target in found.targets],
        "stages": [asdict(record) for record in stages],
        "bundle": None if bundle is None else str(bundle),
    }
    return json.dumps(value, indent=1, allow_nan=False)


def _target_json(target: Judged) -> dict[str, object]:
    return {
        "device": target.terms.device_name,
        "verdict": target.verdict.status,
        "checks": [
            {name: _finite(field) for name, field in asdict(check).items()}
            for check in target.verdict.checks
        ],
        "dense": {name: _finite(figure) for name, figure in target.dense().items()},
        "shipped": {name: _finite(figure) for name, figure in target.shipped().items()},
    }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
