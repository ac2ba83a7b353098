"""Sequential verdicts: errors under optional stopping, items taken, batches, limits, bit-equal outputs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import hypergeom

from quantcheck.statistics.bound import Answer
from quantcheck.statistics.sequential import (
    SLACK,
    WEIGHTS,
    Betting,
    averaged,
    equal_items,
    equal_share,
    limits,
    shuffled,
)

RUNS = 2000
OUTCOMES = st.lists(st.sampled_from([-1, 0, 0, 1]), max_size=60)
BETTING = Betting(0.05, alarm=0.05)


def share(course_answers: tuple[Answer, ...], answer: Answer) -> float:
    return course_answers.count(answer) / len(course_answers)


def within(level: float) -> float:
    """The level, and three standard errors of a share in RUNS simulations."""
    return level + 3 * math.sqrt(level * (1 - level) / RUNS)


@pytest.mark.parametrize(("harmful", "beneficial"), [(0.05, 0.0), (0.1, 0.05), (0.3, 0.25)])
def test_errors_for_accuracy_keep_to_their_levels_at_any_stopping_time(
    harmful: float, beneficial: float
) -> None:
    """On the margin: the item at which the wealth was largest is the worst time to stop, and it is tried."""
    chances = (harmful, beneficial, 1 - harmful - beneficial)
    drawn = np.random.default_rng(1).choice([1.0, -1.0, 0.0], p=chances, size=(RUNS, 300))
    found = BETTING.course(drawn)
    assert share(found.answers, Answer.WORSE) <= within(0.05)
    assert share(found.answers, Answer.NOT_WORSE) <= within(0.05)
    for level in (0.2, 0.05, 0.01):
        assert np.mean(found.p_worse <= level) <= within(level)
        assert np.mean(found.p_not_worse <= level) <= within(level)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy"])
def test_errors_for_log_ratios_keep_to_their_levels_in_the_limits_of_an_accepted_run(kind: str) -> None:
    random, margin = np.random.default_rng(2), math.log(1.01)
    draw = {
        "normal": lambda shape: random.normal(0, 0.006, shape),
        "skewed": lambda shape: 0.006 * (random.exponential(1, shape) - 1),
        "heavy": lambda shape: 0.003 * random.standard_t(4, shape),
    }[kind]
    low, high = limits(draw(128), margin)
    found = Betting(margin, low, high).course(margin + draw((RUNS, 128)))
    assert share(found.answers, Answer.WORSE) <= within(0.01)
    assert share(found.answers, Answer.NOT_WORSE) <= within(0.05)


def test_faults_of_five_percent_of_perplexity_and_more_take_a_handful_of_windows() -> None:
    random, margin = np.random.default_rng(3), math.log(1.01)
    betting = Betting(margin, *limits(random.normal(0, 0.004, 128), margin))
    faults = random.uniform(math.log(1.05), math.log(1.3), (RUNS, 1))
    found = betting.course(faults + random.normal(0, 0.02, (RUNS, 128)))
    assert share(found.answers, Answer.WORSE) == 1
    assert np.median(found.taken) <= 8
    assert found.taken.max() <= 14
    unchanged = betting.course(random.normal(0, 0.004, (RUNS, 128)))
    assert share(unchanged.answers, Answer.NOT_WORSE) == 1
    assert np.median(unchanged.taken) <= 16


def test_equal_outputs_meet_a_margin_about_as_early_as_an_event_that_never_came() -> None:
    fixed = math.log(0.05) / math.log(0.98)
    taken = Betting(0.02).course(np.zeros(1000)).taken[0]
    assert fixed <= taken <= fixed * (1 - math.log(WEIGHTS[0]) / math.log(20)) + 1


@given(OUTCOMES, st.integers(1, 70))
def test_batches_only_delay_the_look(outcomes: list[int], batch: int) -> None:
    each, batched = BETTING.course(outcomes), BETTING.course(outcomes, batch)
    decided = each.answers[0] is not Answer.CANNOT_TELL
    assert batched.taken[0] == (
        min(math.ceil(each.taken[0] / batch) * batch, len(outcomes)) if decided else len(outcomes)
    )
    assert (batched.answers[0] is not Answer.CANNOT_TELL) == decided
    assert batched.p_worse[0] <= each.p_worse[0]


@given(OUTCOMES, OUTCOMES)
def test_what_is_decided_stays_decided(outcomes: list[int], more: list[int]) -> None:
    before, after = BETTING.course(outcomes), BETTING.course(outcomes + more)
    if before.answers[0] is not Answer.CANNOT_TELL:
        assert (after.answers, after.taken) == (before.answers, before.taken)
        assert (after.p_worse, after.p_not_worse) == (before.p_worse, before.p_not_worse)


@given(st.lists(OUTCOMES.map(lambda row: (row + [0] * 60)[:60]), min_size=1, max_size=4))
def test_many_runs_at_once_go_as_one_by_one(rows: list[list[int]]) -> None:
    together = BETTING.course(rows, 4)
    alone = [BETTING.course(row, 4) for row in rows]
    assert together.answers == tuple(course.answers[0] for course in alone)
    assert together.taken.tolist() == [course.taken[0] for course in alone]
    assert together.p_worse == pytest.approx([course.p_worse[0] for course in alone])


@given(OUTCOMES)
def test_swapping_the_models_swaps_the_answers(outcomes: list[int]) -> None:
    found = Betting(0.05, -1, 1, 0.05, 0.05).course(outcomes)
    mirror = Betting(-0.05, -1, 1, 0.05, 0.05).course([-outcome for outcome in outcomes])
    assert mirror.taken == found.taken
    assert mirror.p_worse == pytest.approx(found.p_not_worse)
    swap = {Answer.WORSE: Answer.NOT_WORSE, Answer.NOT_WORSE: Answer.WORSE}
    assert mirror.answers[0] is swap.get(found.answers[0], Answer.CANNOT_TELL)


def test_the_wealth_is_the_product_of_the_bets() -> None:
    outcomes = [1.0, 0.0, 1.0, -1.0, 1.0]
    fractions, weights = 0.5 ** np.arange(12), 1 / np.arange(1, 13) ** 2
    wealth = [
        float(weights @ np.prod(1 + np.outer((np.array(outcomes[:n]) - 0.1) / 1.1, fractions), axis=0))
        / weights.sum()
        for n in range(6)
    ]
    found = Betting(0.1, alarm=1e-9, alpha=1e-9).course(outcomes)
    assert found.p_worse[0] == pytest.approx(1 / max(wealth))


def test_an_outcome_beyond_the_limit_costs_what_was_bet_on_it() -> None:
    betting = Betting(0.1, -0.1, 0.3)
    assert betting.course([0.3] * 9).answers[0] is Answer.WORSE
    assert betting.course([-5.0] + [0.3] * 9).answers[0] is Answer.CANNOT_TELL
    assert betting.course([-5.0] + [0.3] * 400).answers[0] is Answer.WORSE


def test_no_outcomes_decide_nothing() -> None:
    found = BETTING.course([])
    assert (found.answers, found.taken[0], found.p_worse[0], found.p_not_worse[0]) == (
        (Answer.CANNOT_TELL,),
        0,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("outcomes", "batch"), [([math.nan], 1), ([math.inf], 1), ([0.0], 0), (0.0, 1), ([[[0.0]]], 1)]
)
def test_what_is_no_list_of_outcomes_is_refused(outcomes: list[float], batch: int) -> None:
    with pytest.raises(ValueError, match="outcomes of shape"):
        BETTING.course(outcomes, batch)


@pytest.mark.parametrize(
    "figures",
    [
        (1.0, -1, 1, 0.01, 0.05),
        (-1.0, -1, 1, 0.01, 0.05),
        (math.nan, -1, 1, 0.01, 0.05),
        (0.1, -1, 1, 0.0, 0.05),
        (0.1, -1, 1, 0.01, 1.0),
    ],
)
def test_margins_and_levels_that_leave_nothing_to_bet_are_refused(
    figures: tuple[float, float, float, float, float],
) -> None:
    with pytest.raises(ValueError, match="between"):
        Betting(*figures)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=20), st.integers(1, 100))
def test_limits_enclose_the_accepted_run_and_the_margin(accepted: list[int], margin: int) -> None:
    low, high = limits(accepted, margin)
    centre = float(np.mean(accepted))
    reach = max(SLACK * max(abs(value - centre) for value in accepted), margin)
    assert low == min(centre, margin) - reach
    assert high == max(centre, margin) + reach
    assert low < min(*accepted, margin) <= max(*accepted, margin) < high


@pytest.mark.parametrize(("accepted", "margin"), [([], 0.1), ([math.nan], 0.1), ([0.0, 0.0], 0.0)])
def test_a_run_without_spread_or_margin_sets_no_limits(accepted: list[float], margin: float) -> None:
    with pytest.raises(ValueError, match="set no limits"):
        limits(accepted, margin)


@given(st.lists(st.integers(0, 8), max_size=40), st.integers(0, 1000))
def test_a_seeded_order_keeps_clusters_together(clusters: list[int], seed: int) -> None:
    order = shuffled(clusters, seed)
    assert sorted(order) == list(range(len(clusters)))
    assert (order == shuffled(clusters, seed)).all()
    runs = [clusters[place] for place in order]
    starts = [label for before, label in zip([None, *runs], runs, strict=False) if label != before]
    assert len(starts) == len(set(clusters))


def test_a_cluster_comes_first_as_often_as_it_has_items() -> None:
    firsts = np.bincount([shuffled([0, 0, 0, 1, 2, 2], seed)[0] for seed in range(1200)])
    assert firsts.min() > 150
    assert firsts.sum() == 1200


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 6)), min_size=1, max_size=30))
def test_a_cluster_counts_by_its_mean_and_its_size(items: list[tuple[int, int]]) -> None:
    outcomes, clusters = zip(*items, strict=True)
    units, sizes = averaged(outcomes, clusters)
    labels = list(dict.fromkeys(clusters))
    assert sizes.tolist() == [clusters.count(label) for label in labels]
    of_label = [[outcome for outcome, own in items if own == label] for label in labels]
    assert units == pytest.approx([np.mean(own) for own in of_label])


@pytest.mark.parametrize("clusters", [np.arange(60), np.repeat(np.arange(24), [1] * 12 + [4] * 12)])
def test_errors_about_a_full_set_keep_to_their_levels_whatever_the_clusters(
    clusters: NDArray[np.int64],
) -> None:
    """Short clusters are the bad ones: a test that took clusters as equals would be wrong about the items."""
    values = np.where(np.bincount(clusters)[clusters] == 1, 0.6, -0.1) + np.linspace(-0.3, 0.3, 60)
    for shift, answer, level in ((-1e-9, Answer.WORSE, 0.05), (1e-9, Answer.NOT_WORSE, 0.2)):
        betting = Betting(float(values.mean()) - shift, -1, 1, 0.05, 0.2, of=60)
        wrong = 0
        for seed in range(150):
            order = shuffled(clusters, seed)
            units, sizes = averaged(values[order], clusters[order])
            last = int(np.flatnonzero(sizes.cumsum() <= 45)[-1]) + 1  # before the last ones give it away
            wrong += betting.course(units[:last], sizes=sizes[:last]).answers[0] is answer
        assert wrong / 150 <= level + 3 * math.sqrt(level * (1 - level) / 150)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), min_size=1, max_size=30))
def test_a_full_set_is_decided_when_all_of_it_was_taken(outcomes: list[float]) -> None:
    found = Betting(0.1, of=len(outcomes)).course(outcomes)
    beyond = math.fsum(outcomes) > 0.1 * len(outcomes)
    assert found.answers[0] in {Answer.WORSE, Answer.NOT_WORSE}
    if found.taken[0] == len(outcomes):
        assert (found.answers[0] is Answer.WORSE) is beyond


def test_what_the_rest_cannot_mend_is_certain() -> None:
    betting = Betting(0.1, -0.2, 0.5, alarm=1e-9, alpha=1e-9, of=10)
    assert betting.course([0.5] * 4).answers[0] is Answer.CANNOT_TELL
    assert betting.course([0.5] * 5).answers[0] is Answer.WORSE
    assert betting.course([-0.2] * 5).answers[0] is Answer.CANNOT_TELL
    assert betting.course([-0.2] * 6).answers[0] is Answer.NOT_WORSE


def test_more_items_than_the_full_set_has_are_refused() -> None:
    with pytest.raises(ValueError, match="4 items were drawn from a set of 3"):
        Betting(0.1, of=3).course([0.0, 0.0], sizes=[3, 1])


@settings(max_examples=20)
@given(OUTCOMES.filter(len), st.sampled_from([None, 60]))
def test_bounds_are_where_the_claims_end(outcomes: list[int], of: int | None) -> None:
    betting = Betting(0.05, -1, 1, 0.05, 0.05, of)
    lower, upper = betting.bounds(outcomes)
    assert -1 <= lower <= upper <= 1
    for margin, answer in ((lower - 0.01, Answer.WORSE), (upper + 0.01, Answer.NOT_WORSE)):
        if -1 < margin < 1:
            found = replace(betting, margin=margin).course(outcomes, len(outcomes))
            assert found.answers[0] is answer
    within = (lower + upper) / 2
    if upper - lower > 0.02 and -1 < within < 1:
        assert replace(betting, margin=within).course(outcomes).answers[0] is Answer.CANNOT_TELL


@given(st.integers(1, 300), st.integers(0, 19), st.sampled_from([0.2, 0.05, 0.01]))
def test_items_that_must_be_equal_are_the_fewest_that_rule_out_a_larger_share(
    n: int, twentieths: int, alpha: float
) -> None:
    needed = equal_items(n, twentieths / 20, alpha)
    differing = twentieths * n // 20 + 1
    assert hypergeom.pmf(0, n, differing, needed) <= alpha * (1 + 1e-9)
    assert needed == 1 or hypergeom.pmf(0, n, differing, needed - 1) > alpha * (1 - 1e-9)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_share_that_may_differ_is_the_largest_not_ruled_out(items: tuple[int, int]) -> None:
    n, taken = items
    differing = round(equal_share(n, taken) * n)
    assert hypergeom.pmf(0, n, differing, taken) > 0.05 * (1 - 1e-9)
    assert differing == n or hypergeom.pmf(0, n, differing + 1, taken) <= 0.05 * (1 + 1e-9)


def test_an_unchanged_model_needs_few_windows_where_faults_touch_half_of_them() -> None:
    assert [equal_items(128, part) for part in (0.5, 0.3, 0.05)] == [5, 8, 44]
    assert equal_items(1, 0.0) == 1
    assert (equal_share(128, 0), equal_share(128, 128)) == (1, 0)


@pytest.mark.parametrize(
    ("n", "part", "alpha"), [(0, 0.1, 0.05), (9, 1.0, 0.05), (9, -0.1, 0.05), (9, 0.1, 0)]
)
def test_a_rule_of_nothing_is_refused(n: int, part: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="make no rule"):
        equal_items(n, part, alpha)


@pytest.mark.parametrize(("n", "taken", "alpha"), [(0, 0, 0.05), (9, 10, 0.05), (9, -1, 0.05), (9, 3, 1.0)])
def test_a_share_of_nothing_is_refused(n: int, taken: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="bound no share"):
        equal_share(n, taken, alpha)
