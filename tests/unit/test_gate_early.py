"""Verdicts on a part of the items: by the rule's answer, never by a test that needs all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantcheck.gate import AcceptedFigure, Bounds, Evidence, Judgement, Verdict, judge
from quantcheck.judging.early import known_before
from quantcheck.measurement import Measurement, measurement
from quantcheck.statistics.bound import ALPHA, Answer
from quantcheck.stopping import LAST_ALARM, LAST_ALPHA, Stop, Values, stop
from unit.builders import evidence, facts

N = 128
RANDOM = np.random.default_rng(6)
REFERENCE = RANDOM.normal(1.5, 0.2, N)
ACCEPTED = REFERENCE + 0.08 + RANDOM.normal(0, 0.02, N)
BOUNDS = Bounds(math.log(1.25), math.log(1.01), "four bits")
BASELINE = AcceptedFigure(float(ACCEPTED.mean()), outcomes=ACCEPTED, tolerance=np.zeros(N))


def whole(outcomes: Values, metric: str = "ppl/web", **changes: Any) -> Measurement:
    return measurement(metric, outcomes, "items", "windows of 512", 1, **changes)


def gate(**changes: Any) -> Evidence:
    """A gate that was not measured yet."""
    base = evidence(candidate=None, reference=whole(REFERENCE), baseline=BASELINE, bounds=BOUNDS)
    return replace(base, **changes)


def rule(world: Evidence) -> Stop:
    before = known_before(world, None)
    assert before is not None
    return stop(before, 1)


def judged(outcomes: Values, count: int, world: Evidence | None = None) -> Judgement:
    """Judge by the first ``count`` items of the rule's order."""
    world = gate() if world is None else world
    decides = rule(world)
    taken = np.sort(decides.order[:count])
    reference = None if world.reference is None else world.reference.at(taken)
    candidate = whole(outcomes, world.metric).at(taken)
    return judge(replace(world, candidate=candidate, reference=reference, stop=decides))


def test_an_unchanged_model_passes_by_the_floor_of_what_was_accepted() -> None:
    found = judged(ACCEPTED, 7)
    assert (found.verdict, found.reasons) == (Verdict.PASS, ())
    assert found.test is not None
    assert (found.test.bound.n, found.test.answer) == (N, Answer.NOT_WORSE)
    assert found.test.bound.estimate == pytest.approx(float((ACCEPTED - REFERENCE).mean()))
    assert found.drift is not None
    assert found.drift.change == pytest.approx(0)


def test_an_unchanged_model_whose_accepted_outcomes_miss_the_floor_is_below_it() -> None:
    found = judged(ACCEPTED, 7, gate(bounds=Bounds(0.01, 0.05, "too strict")))
    assert found.verdict is Verdict.BELOW_FLOOR


def test_a_harmless_change_passes_by_both_bets() -> None:
    found = judged(ACCEPTED + 0.001, 60)
    assert found.verdict is Verdict.PASS
    assert found.test is not None
    assert found.test.answer is Answer.NOT_WORSE
    assert found.test.bound.lower < found.test.bound.estimate < found.test.bound.upper <= BOUNDS.floor
    assert math.isnan(found.test.bound.mde)
    assert found.test.bound.n == found.test.bound.clusters == 60


def test_a_fault_is_regressed_and_says_after_how_many_items() -> None:
    found = judged(ACCEPTED + 0.15, 20)
    assert found.verdict is Verdict.REGRESSED
    assert found.drift is not None
    assert found.drift.change == pytest.approx(0.15)
    assert found.drift.margin == BOUNDS.drift
    taken = int(found.reasons[0].split("decided after ")[1].split(" of 128 items")[0])
    assert 3 <= taken <= 9


def test_a_collapse_is_below_its_floor_first() -> None:
    found = judged(ACCEPTED + 3.0, 8)
    assert found.verdict is Verdict.BELOW_FLOOR
    assert "the floor allows 0.223144: decided after" in found.reasons[0]
    assert "worse than the accepted baseline" in found.reasons[1]


def test_a_gain_beyond_the_margin_is_an_improvement() -> None:
    found = judged(ACCEPTED - 0.04, 60)
    assert found.verdict is Verdict.IMPROVED


def test_an_evaluation_that_changed_is_told_from_a_model_that_did() -> None:
    world = gate(baseline=replace(BASELINE, artifact=facts().digest))
    found = judged(ACCEPTED + 0.001, 4, world)
    assert found.verdict is Verdict.REGRESSED
    assert "bit for bit, but 4 of 4 items changed" in found.reasons[0]
    assert judged(ACCEPTED - 0.001, 4, world).verdict is Verdict.STALE_BASELINE
    assert judged(ACCEPTED, 7, world).verdict is Verdict.PASS


def test_a_divergence_needs_no_reference() -> None:
    accepted = 0.05 + RANDOM.normal(0, 0.005, N)
    baseline = AcceptedFigure(float(accepted.mean()), outcomes=accepted, tolerance=np.zeros(N))
    world = gate(metric="kld/web", reference=None, baseline=baseline, bounds=Bounds(0.33, 0.01, "four bits"))
    assert judged(accepted, 7, world).verdict is Verdict.PASS
    assert judged(accepted + 0.2, 12, world).verdict is Verdict.REGRESSED


def test_a_cell_without_a_floor_has_its_drift() -> None:
    world = gate(bounds=Bounds(None, BOUNDS.drift, "collapsed"))
    assert judged(ACCEPTED + 0.15, 20, world).verdict is Verdict.REGRESSED
    unchanged = judged(ACCEPTED, 7, world)
    assert (unchanged.verdict, unchanged.test) == (Verdict.PASS, None)


def test_a_part_that_decides_nothing_is_inconclusive() -> None:
    found = judged(ACCEPTED + 0.012, 5)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "5 of 128 items were taken, and they decide nothing" in found.reasons[0]


def test_a_part_without_a_rule_is_inconclusive() -> None:
    taken = np.arange(5)
    part = gate(candidate=whole(ACCEPTED).at(taken), reference=whole(REFERENCE).at(taken))
    assert judge(part).verdict is Verdict.INCONCLUSIVE
    assert judge(replace(part, baseline=None)).verdict is Verdict.INCONCLUSIVE


def test_a_baseline_that_proves_stale_is_stale() -> None:
    world = gate()
    taken = np.sort(rule(world).order[:7])
    part = replace(
        world,
        candidate=whole(ACCEPTED).at(taken),
        reference=whole(REFERENCE).at(taken),
        stop=rule(world),
        baseline=replace(BASELINE, stale=("items differ",)),
    )
    assert (judge(part).verdict, judge(part).reasons) == (Verdict.STALE_BASELINE, ("items differ",))


def test_a_part_is_compared_with_the_same_part_alone() -> None:
    world = gate()
    part = whole(ACCEPTED).at(np.arange(5))
    other = replace(world, candidate=part, reference=whole(REFERENCE).at(np.arange(1, 6)), stop=rule(world))
    assert judge(other).verdict is Verdict.NON_FINITE


def test_all_items_are_tested_at_what_is_left_of_the_levels() -> None:
    world = gate(candidate=whole(ACCEPTED))
    assert world.levels == (world.alarm, ALPHA)
    found = judge(replace(world, stop=rule(gate())))
    assert found.verdict is Verdict.PASS
    assert found.test is not None
    assert (found.test.bound.alarm, found.test.bound.alpha) == (world.alarm * LAST_ALARM, ALPHA * LAST_ALPHA)


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": None},
        {"baseline": replace(BASELINE, stale=("dtype",))},
        {"baseline": AcceptedFigure(1.5)},
        {"reference": None},
        {"reference": whole(REFERENCE[:-1])},
        {"reference": whole(REFERENCE, chance=2.0)},
        {"metric": "bpw"},
    ],
)
def test_gates_that_take_all_their_items(changes: dict[str, Any]) -> None:
    assert known_before(gate(**changes), None) is None


def test_labels_of_other_items_make_no_rule() -> None:
    assert known_before(gate(), np.zeros(N - 1, np.int64)) is None
    assert known_before(gate(), np.zeros(N, np.int64)) is not None
