"""A floor is tested from both sides: it holds, is missed, or the items cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.special import stdtrit

from quantcheck.gate import AcceptedFigure, Bounds, Judgement, Verdict, judge
from quantcheck.statistics.bound import Answer, Bound
from unit.builders import divergence, evidence, measured


def test_a_floor_must_hold_at_the_upper_end_of_a_one_sided_95_percent_interval() -> None:
    outcomes = [0.0, 0.125, 0.25]
    upper = 0.125 + stdtrit(2, 0.95) * (0.125 / math.sqrt(3))  # no skew: Student's t
    assert divergence(outcomes, Bounds(upper * (1 + 1e-9), 0.1, "")).verdict is Verdict.PASS
    short = divergence(outcomes, Bounds(upper * (1 - 1e-9), 0.1, ""))
    assert short.verdict is Verdict.INCONCLUSIVE
    assert f"and {upper:.6g}, on either side of the floor" in short.reasons[0]
    assert "3 items cannot tell, about" in short.reasons[0]


def test_a_floor_is_missed_where_the_lower_end_lies_beyond_it() -> None:
    outcomes, floor = [0.5, 0.75, 1.0], 0.375
    lower = 0.75 - stdtrit(2, 0.99) * (0.25 / math.sqrt(3))
    assert divergence(outcomes, Bounds(floor, 9.0, "")).verdict is Verdict.INCONCLUSIVE
    missed = divergence(outcomes * 20, Bounds(floor, 9.0, ""))
    assert missed.verdict is Verdict.BELOW_FLOOR
    assert missed.reasons[0].startswith("0.75 worse than the reference, 0.68")
    assert divergence(outcomes).test is not None
    assert divergence(outcomes).test.bound.lower == pytest.approx(lower)


@pytest.mark.parametrize(
    ("floor", "answer", "decided"),
    [(0.5, Answer.NOT_WORSE, True), (0.01, Answer.WORSE, True), (0.125, Answer.CANNOT_TELL, False)],
)
def test_more_items_are_asked_for_where_these_cannot_tell_alone(
    floor: float, answer: Answer, decided: bool
) -> None:
    found = divergence([0.1, 0.11, 0.12, 0.15] * 4, Bounds(floor, 9.0, "")).test
    assert found is not None
    assert (found.answer, found.answer.decided, found.needed is None) == (answer, decided, decided)


def test_fewer_alarms_allowed_take_stronger_evidence() -> None:
    world = evidence("kld/x", candidate=measured("kld/x", [0.5, 0.75, 1.0] * 3), reference=None)
    assert judge(replace(world, alarm=0.05)).verdict is Verdict.BELOW_FLOOR
    assert judge(replace(world, alarm=1e-6)).verdict is Verdict.INCONCLUSIVE


def accuracy(harmful: int, beneficial: int, n: int, floor: float) -> Judgement:
    """Judge an accuracy whose items flipped; all others were right in both models."""
    reference = [1.0] * (n - beneficial) + [0.0] * beneficial
    candidate = [0.0] * harmful + [1.0] * (n - harmful)
    both = measured("acc/pooled", candidate), measured("acc/pooled", reference)
    world = evidence("acc/pooled", candidate=both[0], reference=both[1], bounds=Bounds(floor, 9.0, ""))
    return judge(replace(world, baseline=AcceptedFigure(both[0].mean)))


def test_accuracies_are_tested_by_their_flips() -> None:
    found = accuracy(harmful=10, beneficial=4, n=200, floor=0.15)
    assert found.verdict is Verdict.PASS
    assert found.test is not None
    assert (found.test.harmful, found.test.beneficial) == (10, 4)
    assert found.test.bound.estimate == pytest.approx(0.03)
    assert found.test.bound.mde > 0.15
    assert accuracy(harmful=80, beneficial=0, n=200, floor=0.15).verdict is Verdict.BELOW_FLOOR
    close = accuracy(harmful=30, beneficial=0, n=200, floor=0.15)
    assert close.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("n", [1, 5, 200])
def test_an_accuracy_without_flips_is_as_sure_as_its_items_are_many(n: int) -> None:
    found = accuracy(harmful=0, beneficial=0, n=n, floor=0.05)
    assert found.verdict is (Verdict.PASS if n == 200 else Verdict.INCONCLUSIVE)


def test_outcomes_that_are_no_right_or_wrong_are_tested_by_their_mean() -> None:
    candidate, reference = measured("acc/x", [0.25, 0.5, 0.5]), measured("acc/x", [0.5, 0.75, 0.75])
    found = judge(evidence("acc/x", candidate=candidate, reference=reference))
    assert found.test is not None
    assert found.test.harmful is None


def test_more_items_decide_what_few_could_not() -> None:
    assert divergence([0.0, 0.25, 0.75]).verdict is Verdict.INCONCLUSIVE
    assert divergence([0.0, 0.25, 0.75] * 40).verdict is Verdict.PASS


def test_one_item_cannot_decide_a_floor_that_it_meets() -> None:
    found = divergence([0.25])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == (
        "the difference lies between -inf and inf, on either side of the floor of 0.5: 1 item cannot tell, "
        "no number of items would decide",
    )
    assert divergence([0.75]).verdict is Verdict.INCONCLUSIVE


def test_a_counted_figure_is_its_own_bound_at_no_risk() -> None:
    counted = evidence("bpw", candidate=measured("bpw", [3.25]), reference=measured("bpw", [3.0]))
    found = judge(counted).test
    assert found is not None
    assert found.bound == Bound(0.25, 0.25, 0.25, n=1, clusters=1, alarm=0.0, alpha=0.0, mde=0.5)


def test_many_independent_items_are_no_groups() -> None:
    outcomes = [0.0, 1.0] * 300
    found = divergence(outcomes, Bounds(0.5, 9, ""), accepted=0.5)
    assert "600 items cannot tell" in found.reasons[0]
