"""The self-test: an engine beside itself is no different, and a noisy machine is told so."""

import json

import pytest
from user_project import Project

from pipeline.commands.self_test import SelfTest, self_test, text
from pipeline.measure.sessions import Measure
from profiles.statistics import Interval

FAST = Measure(processes=5, seconds=0.3)


def found(upper: float, control: float) -> SelfTest:
    return SelfTest(Interval(1.0, 0.99, upper), control, Interval(2.0, 1.9, 2.2), None)


def test_an_engine_beside_itself_is_measured_as_one_within_a_few_percent() -> None:
    measured = self_test(FAST)
    assert measured.ratio.lower <= measured.ratio.measured <= measured.ratio.upper
    assert measured.ratio.measured == pytest.approx(1, abs=0.1)
    assert measured.wall_p50_ms.measured > 0


def test_the_smallest_difference_is_the_wider_side_of_the_bounds() -> None:
    assert found(1.003, 0).smallest_difference == pytest.approx(0.01)
    assert found(1.04, 0).smallest_difference == pytest.approx(0.04)


def test_a_machine_whose_control_is_off_is_called_too_noisy() -> None:
    assert found(1.003, 0.01).usable
    assert not found(1.003, 0.011).usable
    assert not found(1.003, float("nan")).usable
    assert text(found(1.003, 0.011)).endswith("too noisy: no time from here counts")


def test_the_verb_prints_it_and_leaves_with_6_where_no_time_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for control, code in ((0.0, 0), (0.5, 6)):
        monkeypatch.setattr(
            "pipeline.commands.self_test.self_test", lambda _, c=control: found(1.01, c)
        )
        outcome = project.slimgate("measure", "--self-test", "--json")
        assert outcome.code == code
        assert json.loads(outcome.out)["usable"] is (code == 0)


def test_measure_without_a_bundle_asks_for_one(project: Project) -> None:
    project.slimgate("measure").says(2, "BUNDLE is missing", "slimgate measure recipe.bundle")
