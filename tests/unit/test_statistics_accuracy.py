"""Drops of accuracy: symmetry, monotony, McNemar, clusters, power, and what bad input gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from quantcheck.statistics.accuracy import Flips, flips
from quantcheck.statistics.bound import POWER, Answer, bound, decide
from quantcheck.statistics.score import GAMMA

MARGINS = st.integers(-50, 50).map(lambda hundredths: hundredths / 100)
LEVELS = st.sampled_from([0.05, 0.01, 0.001])


@st.composite
def comparisons(draw: st.DrawFn) -> Flips:
    n = draw(st.integers(1, 150))
    harmful = draw(st.integers(0, n))
    effect = draw(st.floats(1, min(n, 4)))
    return Flips(harmful, draw(st.integers(0, n - harmful)), n, n, effect)


def swapped(found: Flips) -> Flips:
    return Flips(found.beneficial, found.harmful, found.n, found.clusters, found.effect)


@settings(max_examples=40)
@given(comparisons(), MARGINS, LEVELS)
def test_swapping_the_models_turns_all_signs(found: Flips, margin: float, level: float) -> None:
    other = swapped(found)
    assert other.estimate == -found.estimate
    assert (other.lower(level), other.upper(level)) == (-found.upper(level), -found.lower(level))
    assert other.p_worse(-margin) == found.p_not_worse(margin)


@settings(max_examples=40)
@given(comparisons(), MARGINS)
def test_a_flip_for_the_worse_never_speaks_for_the_candidate(found: Flips, margin: float) -> None:
    if found.harmful + found.beneficial < found.n:
        more = Flips(found.harmful + 1, found.beneficial, found.n, found.n, found.effect)
        assert more.p_worse(margin) <= found.p_worse(margin) * 1.01
        assert more.p_not_worse(margin) >= found.p_not_worse(margin) * 0.99


@given(st.integers(0, 60), st.integers(1, 60))
def test_without_a_margin_it_agrees_with_the_exact_mcnemar_test(beneficial: int, more: int) -> None:
    """The conditional test knows fewer outcomes, so it is the stricter one, within a factor."""
    harmful = beneficial + more
    conditional = binomtest(harmful, harmful + beneficial, alternative="greater").pvalue
    found = Flips(harmful, beneficial, 500, 500).p_worse(0.0) - GAMMA
    assert conditional / 3 - GAMMA <= found <= conditional * 1.1


def test_two_perfect_models_are_as_equal_as_their_items_can_show() -> None:
    found = flips(np.ones(400), np.ones(400))
    assert (found.estimate, found.harmful, found.beneficial, found.clusters) == (0.0, 0, 0, 400)
    assert decide(bound(found, 0.01), 0.01) is Answer.NOT_WORSE
    assert decide(bound(found, 0.005), 0.005) is Answer.CANNOT_TELL


def test_one_item_never_decides_a_reasonable_margin() -> None:
    for outcome in (0, 1):
        found = flips([1], [outcome])
        assert decide(bound(found, 0.2), 0.2) is Answer.CANNOT_TELL
        assert found.mde(0.2, 0.01) == math.inf


def test_flips_are_counted_by_direction() -> None:
    found = flips([1, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 1])
    assert (found.harmful, found.beneficial, found.n, found.effect) == (2, 1, 6, 1.0)


def test_a_margin_near_all_items_is_met_by_all_but_the_worst() -> None:
    assert decide(bound(Flips(50, 0, 100, 100), 0.99), 0.99) is Answer.NOT_WORSE
    assert decide(bound(Flips(100, 0, 100, 100), 0.99), 0.99) is Answer.CANNOT_TELL
    assert Flips(100, 0, 100, 100).upper(0.05) == 1


@pytest.mark.parametrize(
    ("found", "margin", "level"),
    [
        (Flips(0, 0, 500, 500), 0.01, 0.01),
        (Flips(15, 10, 500, 500), 0.01, 0.01),
        (Flips(15, 10, 500, 500), 0.0, 1e-4),
    ],
)
def test_the_smallest_drop_that_is_seen_is_seen_as_often_as_promised(
    found: Flips, margin: float, level: float
) -> None:
    drop = found.mde(margin, level)
    flipped = max((found.harmful + found.beneficial) / found.n, drop)
    shares = [(flipped + drop) / 2, (flipped - drop) / 2, 1 - flipped]
    drawn = np.random.default_rng(11).multinomial(found.n, shares, 400)
    seen = np.mean([Flips(int(b), int(c), 500, 500).p_worse(margin) <= level for b, c, _ in drawn])
    assert seen == pytest.approx(POWER, abs=0.08)


@pytest.mark.parametrize(
    ("found", "margin", "answer"),
    [
        (Flips(0, 0, 100, 100), 0.01, Answer.NOT_WORSE),
        (Flips(3, 0, 200, 200), 0.03, Answer.NOT_WORSE),
        (Flips(8, 2, 200, 200), 0.01, Answer.WORSE),
        (Flips(8, 2, 200, 100, 1.7), 0.01, Answer.WORSE),
    ],
)
def test_as_many_items_as_are_needed_decide(found: Flips, margin: float, answer: Answer) -> None:
    n = found.needed(margin, 0.01, 0.05)
    assert n is not None
    times = n / found.n
    assert times > 1
    shares = np.array([found.harmful, found.beneficial, found.n - found.harmful - found.beneficial]) / found.n
    drawn = np.random.default_rng(3).multinomial(int(n / found.effect), shares, 300)
    p_values = [
        (more.p_worse(margin) <= 0.01) if answer is Answer.WORSE else (more.p_not_worse(margin) <= 0.05)
        for more in (Flips(int(b), int(c), int(b + c + rest), 1) for b, c, rest in drawn)
    ]
    assert np.mean(p_values) >= POWER - 0.08


def test_what_no_number_of_items_would_decide_says_so() -> None:
    assert Flips(2, 0, 200, 200).needed(0.01, 0.01, 0.05) is None


def test_items_on_their_own_are_no_clusters() -> None:
    reference, candidate = np.random.default_rng(1).integers(0, 2, (2, 80))
    assert flips(reference, candidate, np.arange(80)[::-1]) == flips(reference, candidate)


@pytest.mark.parametrize("flipped", [0, 5, 20])
def test_a_single_cluster_or_one_with_all_flips_counts_as_few_items(flipped: int) -> None:
    candidate = np.repeat([0, 1], [flipped, 100 - flipped])
    assert flips(np.ones(100), candidate, np.zeros(100)).effect == 100
    assert flips(np.ones(100), candidate, np.arange(100) // 20).effect == 20


def test_where_all_items_flip_the_clusters_count() -> None:
    assert flips(np.ones(12), np.zeros(12), np.arange(12) // 3).effect == 3


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_design_effect_lies_between_independent_items_and_whole_clusters(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    reference, candidate = random.integers(0, 2, (2, 60))
    labels = random.permutation(np.arange(60) // size)
    found = flips(reference, candidate, labels)
    most = (np.bincount(labels) ** 2).sum() / 60
    assert 1 <= found.effect <= most + 1e-12
    assert found.lower(0.05) <= flips(reference, candidate).lower(0.05)


@pytest.mark.parametrize(("clusters", "size", "alike"), [(100, 4, 1.0), (60, 5, 0.5), (25, 8, 0.0)])
def test_errors_keep_to_their_levels_where_items_flip_together(
    clusters: int, size: int, alike: float
) -> None:
    """With a true drop on the margin; an item does as its cluster does with a probability of ``alike``."""
    random, margin, runs = np.random.default_rng(9), 0.05, 400
    labels, chances = np.arange(clusters * size) // size, (0.08, 0.03, 0.89)
    alarms = passes = 0
    for _ in range(runs):
        own = random.choice([1, -1, 0], p=chances, size=clusters * size)
        whole = random.choice([1, -1, 0], p=chances, size=clusters)[labels]
        worse = np.where(random.uniform(size=own.size) < alike**0.5, whole, own)
        found = flips(worse == 1, worse == -1, labels)
        alarms += found.p_worse(margin) <= 0.05
        passes += found.p_not_worse(margin) <= 0.05
    assert alarms / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert passes / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    ("reference", "candidate", "clusters", "message"),
    [
        ([], [], None, "make no pairs"),
        ([1, 0], [1], None, "make no pairs"),
        ([[1, 0]], [[1, 0]], None, "make no pairs"),
        ([1, 0.5], [1, 0], None, "right, 1, or wrong, 0"),
        ([1, 0], [1, math.nan], None, "right, 1, or wrong, 0"),
        ([1, 0], [1, 0], [1], "cluster labels"),
    ],
)
def test_outcomes_that_make_no_pairs_are_refused(
    reference: list[float], candidate: list[float], clusters: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        flips(reference, candidate, clusters)


@pytest.mark.parametrize(
    "counts", [(-1, 0, 5, 5), (0, -1, 5, 5), (3, 3, 5, 5), (0, 0, 0, 0), (0, 0, 5, 0), (0, 0, 5, 6)]
)
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="items"):
        Flips(*counts)


@pytest.mark.parametrize("effect", [0.5, 6.0, math.nan])
def test_an_impossible_design_effect_is_refused(effect: float) -> None:
    with pytest.raises(ValueError, match="design effect"):
        Flips(0, 0, 5, 5, effect)
