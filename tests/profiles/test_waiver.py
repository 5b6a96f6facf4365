"""Waivers: they raise one limit of one engine for some time, and make up for no evidence."""

import math
from datetime import date
from pathlib import Path

import pytest
from known_measurement import SHA, loose
from measurement_faults import BAD, Spoil
from pydantic import ValidationError

from profiles.errors import ConfigError
from profiles.gate import Verdict
from profiles.limits import LIMITS
from profiles.waiver import Waiver, read_waivers


def waiver(**fields: object) -> Waiver:
    plain: dict[str, object] = {
        "check": "latency_p50_ms",
        "device": "box",
        "engine_sha256": SHA,
        "limit": 4.1,
        "reason": "until the new board comes",
        "signed_off_by": "the release owner",
        "expires": date(2030, 6, 1),
    }
    return Waiver.model_validate(plain | fields)


SLOW = loose("latency_p50_ms").limited("latency_p50_ms", 3.9)


def test_a_waiver_raises_a_limit_until_its_last_day_and_is_seen() -> None:
    check = SLOW.check((waiver(),), date(2030, 6, 1))
    assert (check.status, check.limit) == ("waived", 3.9)
    assert check.reason.startswith("over by 0.1; waived until 2030-06-01 by the release owner: ")
    assert Verdict((check,)).status == "pass"
    late = SLOW.check((waiver(),), date(2030, 6, 2))
    assert (late.status, late.reason) == ("fail", "over by 0.1; its waiver expired on 2030-06-01")


@pytest.mark.parametrize(
    "fields",
    [
        {"check": "latency_p95_ms"},
        {"device": "other"},
        {"engine_sha256": "6" * 64},
        {"limit": 3.99},
        {"limit": math.inf},
        {"expires": date(2029, 1, 1)},
    ],
)
def test_a_waiver_of_something_else_or_not_enough_waives_nothing(fields: dict[str, object]) -> None:
    if fields.get("limit") == math.inf:
        with pytest.raises(ValidationError):
            waiver(**fields)
    else:
        assert SLOW.check((waiver(**fields),), date(2030, 1, 1)).status == "fail"


@pytest.mark.parametrize(
    ("metric", "spoil"),
    [(metric, spoil) for metric, name, spoil in BAD if name not in ("over", "infinite")],
)
def test_no_waiver_makes_up_for_evidence_with_a_fault(metric: str, spoil: Spoil) -> None:
    limit = 1e-9 if LIMITS[metric].is_minimum else 1e9
    case = spoil(loose(metric), metric)
    lax = waiver(check=metric, device=case.device_name, engine_sha256=case.sha256, limit=limit)
    assert case.check((lax,), date(2030, 1, 1)).status == "inconclusive"


FILE = """
[[waiver]]
check = "latency_p50_ms"
device = "box"
engine_sha256 = "{sha}"
limit = 4.1
reason = "until the new board comes"
signed_off_by = "the release owner"
expires = {day}
"""


def test_a_file_of_waivers_is_read(tmp_path: Path) -> None:
    (tmp_path / "waiver.toml").write_text(FILE.format(sha=SHA, day="2030-06-01"))
    assert read_waivers(tmp_path / "waiver.toml") == (waiver(),)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("latency_p50_ms", "latency_p50", "waiver.check: 'latency_p50' is none of: top1_drop"),
        (SHA, "5" * 8, "engine_sha256"),
        ("2030-06-01", '"soon"', "expires"),
        ('signed_off_by = "the release owner"', "", "signed_off_by: missing"),
        ("until the new board comes", "why not", "reason"),
        ("limit = 4.1", "limit = nan", "limit"),
    ],
)
def test_a_file_that_makes_no_sense_is_told_so(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "waiver.toml"
    path.write_text(FILE.format(sha=SHA, day="2030-06-01").replace(old, new))
    with pytest.raises(ConfigError, match=r"waiver\.toml") as refused:
        read_waivers(path)
    assert says in str(refused.value)
