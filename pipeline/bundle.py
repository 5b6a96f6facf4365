"""The bundle: what ships, with the evidence. Judging one needs no torch and no runtime."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.artifact import PruneReport
from pipeline.digest import file_digest
from pipeline.store import (
    MANIFEST,
    StageRecord,
    disk_faults,
    manifest_fault,
    publish,
    write_json,
    write_manifest,
)
from profiles.device import Budget, DeviceProfile
from profiles.errors import ConfigError, IntegrityError
from profiles.gate import Verdict, judge
from profiles.measurement import Measurement, figures
from profiles.spec import Spec, explain, read_spec

SCHEMA_VERSION = 1


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A file right inside the bundle: nothing outside is covered by its manifest."""


class Terms(Spec):
    """What the engine was built for, and what it may cost there."""

    schema_version: Literal[1] = 1
    device_name: str
    device: DeviceProfile
    budget: Budget
    engine: FileName
    """The engine that would ship, a file of the bundle."""
    dense: FileName
    """The dense network's engine, the baseline of every ratio."""


@dataclass(frozen=True)
class Judged:
    """A bundle's evidence and the verdict on it."""

    terms: Terms
    pruned: PruneReport
    measurement: Measurement
    verdict: Verdict

    def dense(self) -> dict[str, float]:
        """The dense network's figures."""
        runs = self.measurement.latency
        return figures(self.measurement.dense, [run.dense for run in runs])

    def shipped(self) -> dict[str, float]:
        """The figures of the engine that would ship."""
        runs = self.measurement.latency
        return figures(self.measurement.shipped, [run.shipped for run in runs])


def judge_bundle(folder: Path) -> Judged:
    """Judge a bundle anew from its raw samples alone.

    Raises IntegrityError when any file differs from the manifest, ConfigError when the folder
    is no bundle.
    """
    check_bundle(folder)
    terms = read_spec(folder / "target.json", Terms)
    pruned = read_spec(folder / "prune.json", PruneReport)
    measurement = read_measurement(folder / "measurement.json")
    return judged(terms, pruned, measurement, file_digest(folder / terms.engine))


def judged(
    terms: Terms, pruned: PruneReport, measurement: Measurement, engine_sha256: str
) -> Judged:
    """The verdict on a measurement under a bundle's terms."""
    verdict = judge(measurement, terms.budget, terms.device_name, terms.device, engine_sha256)
    return Judged(terms, pruned, measurement, verdict)


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


def read_measurement(path: Path) -> Measurement:
    """The raw evidence. NaN is read as it stands, for the gate to refuse."""
    try:
        return Measurement.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise ConfigError(explain(error, Measurement, str(path))) from error


def write_bundle(
    folder: Path, files: Mapping[str, Path], texts: Mapping[str, Spec], found: Judged, report: str
) -> None:
    """Write a bundle beside `folder` and rename it into place, over an older bundle only.

    `files` are copied under their names, `texts` written as JSON. One writer at a time: what
    a killed one left beside the folder is removed.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder}: exists and is not a bundle; choose another --out")
    work, old = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            for name, path in files.items():
                shutil.copyfile(path, work / name)
            for name, spec in texts.items():
                write_json(work / name, spec)
            write_json(work / "target.json", found.terms)
            write_json(work / "prune.json", found.pruned)
            write_json(work / "measurement.json", found.measurement)
            (work / "verdict.json").write_text(verdict_json(found, [], None) + "\n")
            (work / "report.md").write_text(report)
            write_manifest(work, 0.0)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def verdict_json(found: Judged, stages: Sequence[StageRecord], bundle: Path | None) -> str:
    """One versioned object; a figure that is not finite is null."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "verdict": found.verdict.status,
        "checks": [
            {name: _finite(field) for name, field in asdict(check).items()}
            for check in found.verdict.checks
        ],
        "dense": {name: _finite(figure) for name, figure in found.dense().items()},
        "shipped": {name: _finite(figure) for name, figure in found.shipped().items()},
        "stages": [asdict(record) for record in stages],
        "bundle": None if bundle is None else str(bundle),
    }
    return json.dumps(value, indent=1, allow_nan=False)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
