"""When gates are decided early: each way to be, what the rule rests on, and its digest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.measurement import KINDS
from quantcheck.statistics.bound import ALPHA, Answer
from quantcheck.stopping import (
    BETTER,
    CONFINED,
    DRIFT_ALARM,
    DRIFT_ALPHA,
    EQUAL_ALPHA,
    FLOOR_ALARM,
    FLOOR_ALPHA,
    LAST_ALARM,
    LAST_ALPHA,
    NO_STOPS,
    WORSE,
    Known,
    Values,
    digest_of,
    stop,
)

N = 128
RANDOM = np.random.default_rng(5)
REFERENCE = RANDOM.normal(1.5, 0.2, N)
ACCEPTED = REFERENCE + 0.08 + RANDOM.normal(0, 0.02, N)


def known(**changes: Any) -> Known:
    """A perplexity gate of four bits: the floor at 25 %, the drift at 1 %, each window for itself."""
    right = Known(
        KINDS["ppl"], REFERENCE, ACCEPTED, np.full(N, 1e-4), None, math.log(1.25), math.log(1.01), alarm=0.01
    )
    return replace(right, **changes)


def moved(mean: float, spread: float = 0.005, seed: int = 1) -> Values:
    return ACCEPTED + mean + np.random.default_rng(seed).normal(0, spread, N)


def test_no_level_is_spent_twice() -> None:
    assert FLOOR_ALARM + DRIFT_ALARM + LAST_ALARM == 1
    assert EQUAL_ALPHA + DRIFT_ALPHA == 1
    assert EQUAL_ALPHA + FLOOR_ALPHA + LAST_ALPHA == 1
    rule = stop(known(), 1)
    assert rule.floor is not None
    assert (rule.floor.alarm, rule.floor.alpha) == (0.0025, 0.0125)
    assert (rule.drift.alarm, rule.drift.alpha) == (0.005, pytest.approx(0.0375))


def test_an_unchanged_model_is_decided_after_seven_windows() -> None:
    rule = stop(known(), 1)
    outcomes = (ACCEPTED + 5e-5)[rule.order]
    assert rule.answer(outcomes[:6]) is None
    found = rule.answer(outcomes[:7])
    assert found is not None
    assert (found.taken, found.drift, found.unchanged) == (7, Answer.NOT_WORSE, True)


def test_an_unchanged_model_far_below_its_floor_is_so_before_that() -> None:
    rule = stop(known(reference=ACCEPTED - 3 + np.linspace(0, 0.1, N)), 1)
    found = rule.answer(ACCEPTED[rule.order])
    assert found is not None
    assert (found.floor, found.unchanged, found.taken < rule.equal) == (Answer.WORSE, False, True)


def test_one_window_that_differs_and_the_model_is_not_unchanged() -> None:
    rule = stop(known(), 1)
    outcomes = ACCEPTED.copy()
    outcomes[rule.order[3]] += 2e-4
    found = rule.answer(outcomes[rule.order])
    assert found is not None
    assert not found.unchanged
    assert found.taken > 7
    assert (found.floor, found.drift) == (Answer.NOT_WORSE, Answer.NOT_WORSE)


def test_a_change_of_half_the_windows_is_rarely_taken_for_none() -> None:
    outcomes = ACCEPTED.copy()
    outcomes[: int(CONFINED * N) + 1] += 0.001
    rules = [stop(known(), seed) for seed in range(200)]
    unchanged = sum(
        found is not None and found.unchanged for found in (r.answer(outcomes[r.order[:7]]) for r in rules)
    )
    level = EQUAL_ALPHA * ALPHA
    assert unchanged / 200 <= level + 3 * math.sqrt(level / 200)


@pytest.mark.parametrize(("mean", "most"), [(math.log(1.05), 30), (math.log(1.2), 9)])
def test_a_fault_is_worse_than_what_was_accepted(mean: float, most: int) -> None:
    rule = stop(known(), 1)
    found = rule.answer(moved(mean)[rule.order])
    assert found is not None
    assert found.drift is Answer.WORSE
    assert found.taken <= most


def test_a_collapse_is_worse_than_the_floor_as_well() -> None:
    rule = stop(known(), 1)
    found = rule.answer(moved(5.0)[rule.order])
    assert found is not None
    assert (found.floor, found.drift) == (Answer.WORSE, Answer.WORSE)
    assert found.taken <= 3


def test_a_model_that_was_accepted_below_its_floor_is_stopped_by_the_floor() -> None:
    rule = stop(known(floor=0.01, drift=0.05), 1)
    found = rule.answer(moved(0.0)[rule.order])
    assert found is not None
    assert found.floor is Answer.WORSE


def test_a_cell_without_a_floor_is_decided_by_its_drift_alone() -> None:
    rule = stop(known(floor=None), 1)
    assert rule.floor is None
    found = rule.answer(moved(0.0)[rule.order])
    assert found is not None
    assert (found.floor, found.drift) == (None, Answer.NOT_WORSE)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_item_that_is_not_finite_decides_at_once(bad: float) -> None:
    rule = stop(known(), 1)
    found = rule.answer(np.array([ACCEPTED[rule.order[0]], bad]))
    assert found is not None
    assert (found.taken, found.drift) == (2, Answer.WORSE)


def test_the_accepted_artifact_must_answer_as_it_did() -> None:
    rule = stop(known(same=True), 1)
    outcomes = ACCEPTED[rule.order]
    assert rule.answer(outcomes[:3]) is None
    outcomes[1] += 2e-4
    found = rule.answer(outcomes[:3])
    assert found is not None
    assert (found.drift, found.unchanged) == (Answer.WORSE, False)


@settings(max_examples=40)
@given(st.integers(0, 50), st.floats(-0.05, 0.1), st.integers(1, N - 1))
def test_what_the_bets_decided_stays_decided(seed: int, mean: float, first: int) -> None:
    rule = stop(known(), seed)
    outcomes = moved(mean, 0.01, seed)[rule.order]
    early, late = rule.answer(outcomes[:first]), rule.answer(outcomes)
    assert late is not None
    if early is not None:
        assert late.taken <= first
        assert (late.drift, late.taken) == (early.drift, early.taken)


def test_accuracies_are_never_unchanged_but_decided_by_bets() -> None:
    right = np.resize([1.0, 1.0, 1.0, 0.0], 1000)
    gate = Known(KINDS["acc"], right, right, np.zeros(1000), None, 0.15, 0.02, 0.01)
    rule = stop(gate, 1)
    assert rule.equal == 0
    found = rule.answer(right[rule.order])
    assert found is not None
    assert (found.floor, found.drift, found.unchanged) == (Answer.NOT_WORSE, Answer.NOT_WORSE, False)
    assert 100 < found.taken < 300
    lost = stop(gate, 1).answer(np.zeros(1000))
    assert lost is not None
    assert (lost.floor, lost.drift) == (Answer.WORSE, Answer.WORSE)


def test_two_choices_may_flip_by_rounding_where_the_artifact_is_the_accepted_one() -> None:
    right = np.ones(100)
    rule = stop(Known(KINDS["acc"], right, right, np.zeros(100), None, None, 0.02, 0.01, same=True), 1)
    assert rule.answer(np.array([0.0, 1.0])) is None
    found = rule.answer(np.array([0.0, 0.0]))
    assert found is not None
    assert found.drift is Answer.WORSE


@pytest.mark.parametrize(("name", "accepted"), [("kld", 0.08), ("top1", 0.9)])
def test_kinds_that_are_relative_need_no_reference(name: str, accepted: float) -> None:
    outcomes = accepted + RANDOM.normal(0, 0.01, N)
    gate = Known(KINDS[name], None, outcomes, np.full(N, 1e-4), None, 0.33, 0.01, 0.01)
    rule = stop(gate, 1)
    assert rule.floor is not None
    assert rule.floor.low == 0
    worst = -0.1 if KINDS[name].higher_is_better else 0.1
    for change, answer in ((worst, Answer.WORSE), (2e-4, Answer.NOT_WORSE)):
        found = rule.answer((outcomes + change)[rule.order])
        assert found is not None
        assert found.drift is answer


def test_a_divergence_improves_by_no_more_than_was_accepted() -> None:
    gate = Known(KINDS["kld"], None, np.full(N, 0.5), np.zeros(N), None, 0.33, 0.02, 0.01)
    assert (stop(gate, 1).drift.low, stop(gate, 1).drift.high) == (-BETTER * 0.02, WORSE * 0.02)
    for accepted, low in ((0.05, -0.05), (0.01, -0.02)):
        assert stop(replace(gate, accepted=np.full(N, accepted)), 1).drift.low == low
    agreement = replace(gate, kind=KINDS["top1"], accepted=np.full(N, 0.95))
    assert stop(agreement, 1).drift.low == pytest.approx(-0.05)


@pytest.mark.parametrize("clusters", [None, np.arange(N) // 2, np.repeat([0, 1], N // 2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_units_come_whole_and_bounds_enclose_the_difference(clusters: Any, seed: int) -> None:
    rule = stop(known(clusters=clusters), seed)
    outcomes = moved(0.02)[rule.order]
    labels = rule.known.labels[rule.order]
    assert (np.diff(labels) != 0).sum() + 1 == np.unique(labels).size
    lower, upper = rule.bounds(outcomes[:21])
    assert lower < float((outcomes - REFERENCE[rule.order]).mean()) < upper
    assert rule.answer(outcomes) is not None
    if clusters is not None and clusters[-1] == 1:
        assert rule.answer(outcomes[: N // 2 - 1]) is None  # no unit is whole


def test_the_first_items_are_read_off_whatever_else_was_taken() -> None:
    rule = stop(known(), 1)
    taken = np.sort(np.append(rule.order[:5], rule.order[9]))
    assert rule.first(taken, ACCEPTED[taken]).tolist() == ACCEPTED[rule.order[:5]].tolist()
    everything = np.arange(N)
    assert rule.first(everything, ACCEPTED).tolist() == ACCEPTED[rule.order].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"accepted": ACCEPTED + 1e-9},
        {"reference": REFERENCE + 1e-9},
        {"allowed": np.full(N, 2e-4)},
        {"clusters": np.arange(N) // 2},
        {"floor": 0.2},
        {"drift": 0.02},
        {"alarm": 0.001},
        {"same": True},
    ],
)
def test_the_digest_holds_all_that_answers_depend_on(changes: dict[str, Any]) -> None:
    digests = {stop(known(), 1).digest, stop(known(**changes), 1).digest, stop(known(), 2).digest}
    assert len(digests) == 3
    assert stop(known(), 1).digest == stop(known(), 1).digest


def test_rules_of_several_metrics_have_one_digest() -> None:
    assert digest_of(NO_STOPS) == ""
    one, two = stop(known(), 1), stop(known(), 2)
    assert len({digest_of({"a": one}), digest_of({"b": one}), digest_of({"a": two}), ""}) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"accepted": ACCEPTED[:-1]},
        {"accepted": np.array([])},
        {"accepted": np.append(ACCEPTED[:-1], math.nan)},
        {"reference": np.append(REFERENCE[:-1], math.inf)},
        {"allowed": np.zeros(3)},
        {"clusters": np.zeros(3, np.int64)},
    ],
)
def test_outcomes_that_make_no_rule_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no rule"):
        stop(known(**changes), 1)
