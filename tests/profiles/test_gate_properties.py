"""What the gate never does, whatever the evidence: properties of passes and refusals.

A gate that passes everything, or nothing, keeps most of them: each is seen to reach all outcomes.
"""

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st
from known_measurement import METRICS, TIMES, Case, loose, measurement, run, weighed

RESIDENT = st.one_of(st.floats(-10, 1000), st.sampled_from([math.nan, math.inf, -math.inf]))
BEFORE_AND_AFTER = {(True, True), (True, False), (False, False)}
"""Whether a case passes, and still does with worse evidence: all but a refusal that turned."""


def test_a_pass_is_finite_and_within_and_a_failure_surely_over() -> None:
    reached = set()

    @settings(deadline=None)
    @example([(60, 40)] * 3, 25)
    @example([(60, 40)] * 3, 20.5)
    @example([(60, 40)] * 3, 15)
    @given(st.lists(st.tuples(RESIDENT, RESIDENT), max_size=5), st.floats(0.1, 1000))
    def holds(pairs: list[tuple[float, float]], limit: float) -> None:
        runs = [weighed(peak, baseline) for peak, baseline in pairs]
        check = loose("peak_memory_mib").weighed(runs).limited("peak_memory_mib", limit).check()
        reached.add(check.status)
        if check.status == "pass":
            assert math.isfinite(check.upper)
            assert check.upper <= limit
            assert all(peak > baseline for peak, baseline in pairs)
        if check.status == "fail":
            assert check.lower > limit

    holds()
    assert reached == {"pass", "fail", "inconclusive"}


def passes(case: Case) -> bool:
    return case.check().status == "pass"


def test_losing_one_more_sample_never_turns_a_refusal_into_a_pass() -> None:
    reached = set()

    @settings(deadline=None)
    @example([(True, True)] * 60, 0, 0.5)
    @example([(True, True)] * 60, 0, 0.05)
    @example([(True, True)] * 60, 0, 0.0)
    @given(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60),
        st.integers(0, 59),
        st.floats(0, 0.99),
    )
    def holds(pairs: list[tuple[bool, bool]], place: int, limit: float) -> None:
        dense, shipped = ([float(p[i]) for p in pairs] for i in range(2))
        worse = [0.0 if i == place else score for i, score in enumerate(shipped)]
        whole = measurement()
        source = whole.model_copy(
            update={"dense": whole.dense.model_copy(update={"scores": tuple(dense)})}
        )
        case = Case(source, {"top1_drop": limit})
        pair = passes(case.scored(shipped)), passes(case.scored(worse))
        assert pair in BEFORE_AND_AFTER
        reached.add(pair)

    holds()
    assert reached == BEFORE_AND_AFTER


def test_more_memory_never_turns_a_refusal_into_a_pass() -> None:
    reached = set()

    @settings(deadline=None)
    @example([60.0] * 3, 0, 0.0, 30)
    @example([60.0] * 3, 0, 50.0, 30)
    @example([60.0] * 3, 0, 50.0, 10)
    @given(
        st.lists(st.floats(41, 100), min_size=3, max_size=5),
        st.integers(0, 4),
        st.floats(0, 50),
        st.floats(1, 80),
    )
    def holds(peaks: list[float], place: int, more: float, limit: float) -> None:
        worse = [peak + more * (i == place) for i, peak in enumerate(peaks)]
        case = loose("peak_memory_mib").limited("peak_memory_mib", limit)
        before, after = (
            passes(case.weighed([weighed(peak) for peak in run_peaks]))
            for run_peaks in (peaks, worse)
        )
        assert (before, after) in BEFORE_AND_AFTER
        reached.add((before, after))

    holds()
    assert reached == BEFORE_AND_AFTER


TIMED = st.lists(st.integers(100, 400), min_size=5, max_size=8)


def test_slowing_every_call_never_turns_a_refusal_into_a_pass() -> None:
    reached = set()

    @settings(deadline=None)
    @example([200] * 5, 2, "latency_p50_ms", 12)
    @example([200] * 5, 2, "latency_p50_ms", 4.5)
    @example([200] * 5, 2, "latency_p50_ms", 0.1)
    @given(TIMED, st.integers(2, 5), st.sampled_from(TIMES), st.floats(0.1, 12))
    def holds(times: list[int], factor: int, metric: str, limit: float) -> None:
        case = loose(metric).limited(metric, limit)
        before, after = (
            passes(case.timed([run(shipped_ms=by * time / 100) for time in times]))
            for by in (1, factor)
        )
        assert (before, after) in BEFORE_AND_AFTER
        reached.add((before, after))

    holds()
    assert reached == BEFORE_AND_AFTER


def test_slowing_one_process_never_turns_a_refusal_into_a_pass() -> None:
    reached = set()

    @settings(deadline=None)
    @example([200] * 5, 0, 400, "latency_p50_ms", 400)
    @example([200] * 5, 0, 400, "latency_p50_ms", 4.5)
    @example([200] * 5, 0, 400, "latency_p50_ms", 0.1)
    @given(
        TIMED, st.integers(0, 7), st.integers(1, 400), st.sampled_from(TIMES), st.floats(0.1, 400)
    )
    def holds(times: list[int], place: int, more: int, metric: str, limit: float) -> None:
        slower = [time + more * (i == place) for i, time in enumerate(times)]
        case = loose(metric).limited(metric, limit)
        before, after = (
            passes(case.timed([run(shipped_ms=time / 100) for time in process]))
            for process in (times, slower)
        )
        assert (before, after) in BEFORE_AND_AFTER
        reached.add((before, after))

    holds()
    assert reached == BEFORE_AND_AFTER


@given(st.sampled_from(METRICS), st.sampled_from(["dense", "shipped"]))
def test_an_engine_that_was_never_compared_with_its_network_never_passes(
    metric: str, side: str
) -> None:
    whole = measurement()
    engine = getattr(whole, side).model_copy(update={"unverified": "it needs a GPU"})
    check = Case(whole.model_copy(update={side: engine}), loose(metric).limits).check()
    assert check.status == "inconclusive"
    assert check.reason == (
        "the engine's outputs were never compared with the model's: it needs a GPU"
    )
    assert loose(metric).check().status == "pass"
