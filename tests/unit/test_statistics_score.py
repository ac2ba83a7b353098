"""Tango's statistic and its exact null distribution, against brute force, and how often it errs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv
from scipy.stats import multinomial, norm

from quantcheck.statistics.score import GAMMA, drop_below, p_drop_above, score

LEVELS = (0.05, 0.01, 0.001)
DROPS = st.integers(-99, 99).map(lambda hundredths: hundredths / 100)


@st.composite
def counts(draw: st.DrawFn, largest: int = 60) -> tuple[int, int, int]:
    n = draw(st.integers(1, largest))
    harmful = draw(st.integers(0, n))
    return harmful, draw(st.integers(0, n - harmful)), n


def outcomes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of counts, harmful and beneficial, that n items can have."""
    pairs = [(harmful, beneficial) for harmful in range(n + 1) for beneficial in range(n + 1 - harmful)]
    harmful, beneficial = np.array(pairs).T
    return harmful, beneficial


def probabilities(n: int, share: float, drop: float) -> np.ndarray:
    """Of all pairs of counts, where a share of items is beneficial."""
    harmful, beneficial = outcomes(n)
    shares = np.clip([share + drop, share, 1 - drop - 2 * share], 0, 1)
    return multinomial.pmf(np.stack([harmful, beneficial, n - harmful - beneficial], -1), n, shares)


@given(counts(), DROPS)
def test_the_variance_is_that_at_the_most_likely_shares_under_the_drop(
    found: tuple[int, int, int], drop: float
) -> None:
    harmful, beneficial, n = found

    def surprise(share: float) -> float:
        shares = np.clip([share + drop, share, 1 - drop - 2 * share], 1e-300, 1)
        return -float(np.dot([harmful, beneficial, n - harmful - beneficial], np.log(shares)))

    low, high = max(0.0, -drop), (1 - drop) / 2
    best = minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    best = min((low, best, high), key=surprise)
    variance = n * (2 * best + drop * (1 - drop))
    excess = harmful - beneficial - n * drop
    assume(variance > 1e-3)
    assert float(score(harmful, beneficial, n, drop)) == pytest.approx(
        excess / math.sqrt(variance), rel=1e-3, abs=1e-5
    )


@given(counts())
def test_without_a_margin_it_is_mcnemars(found: tuple[int, int, int]) -> None:
    harmful, beneficial, n = found
    expected = (harmful - beneficial) / math.sqrt(max(harmful + beneficial, 1))
    assert float(score(harmful, beneficial, n, 0.0)) == pytest.approx(expected)


@given(st.integers(1, 60), DROPS)
def test_it_rises_with_harmful_items_and_falls_with_beneficial_ones(n: int, drop: float) -> None:
    for other in range(n + 1):
        free = np.arange(n + 1 - other)
        assert (np.diff(score(free, other, n, drop)) > -1e-9).all()
        assert (np.diff(score(other, free, n, drop)) < 1e-9).all()


@settings(max_examples=30)
@given(counts(9), DROPS)
def test_the_p_value_is_the_sum_of_all_outcomes_as_extreme_under_the_worst_shares(
    found: tuple[int, int, int], drop: float
) -> None:
    harmful, beneficial, n = found
    low = betaincinv(beneficial, n - beneficial + 1, GAMMA / 2) if beneficial else 0.0
    high = betaincinv(beneficial + 1, n - beneficial, 1 - GAMMA / 2) if beneficial < n else 1.0
    extreme = score(*outcomes(n), n, drop) >= float(score(harmful, beneficial, n, drop)) - 1e-9
    shares = np.linspace(*np.clip([low, high], max(0.0, -drop), (1 - drop) / 2), 101)
    worst = max(float(probabilities(n, share, drop)[extreme].sum()) for share in shares)
    assert p_drop_above(harmful, beneficial, n, drop) == pytest.approx(min(1.0, worst + GAMMA), rel=0.01)


@pytest.mark.parametrize("n", [1, 2, 7, 15])
@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1, 0.5, 0.97, -0.1])
def test_the_size_keeps_to_every_level_under_all_shares(n: int, drop: float) -> None:
    p_values = np.array([p_drop_above(int(b), int(c), n, drop) for b, c in zip(*outcomes(n), strict=True)])
    for share in np.linspace(max(0.0, -drop), (1 - drop) / 2, 101):
        chances = probabilities(n, share, drop)
        for level in LEVELS:
            assert chances[p_values <= level].sum() <= level * 1.01


@pytest.mark.parametrize(("n", "drop", "share"), [(500, 0.02, 0.0015), (1000, 0.01, 0.0009)])
def test_the_normal_approximation_would_exceed_them_three_times(n: int, drop: float, share: float) -> None:
    harmful, beneficial = (counts.ravel() for counts in np.meshgrid(np.arange(61), np.arange(13)))
    rejected = norm.sf(score(harmful, beneficial, n, drop)) <= 0.001
    found = np.stack([harmful, beneficial, n - harmful - beneficial], -1)[rejected]
    chances = multinomial.pmf(found, n, [share + drop, share, 1 - drop - 2 * share])
    exact = np.array([p_drop_above(int(b), int(c), n, drop) for b, c, _ in found])
    assert chances.sum() > 3 * 0.001
    assert chances[exact <= 0.001].sum() <= 0.001


@given(counts(200), st.lists(DROPS, min_size=2, max_size=6))
def test_a_larger_drop_is_never_less_credible(found: tuple[int, int, int], drops: list[float]) -> None:
    p_values = [p_drop_above(*found, drop) for drop in (-1.0, *sorted(drops), 1.0)]
    assert p_values[0] == GAMMA
    assert p_values[-1] == 1
    assert all(low <= high * 1.01 for low, high in pairwise(p_values))


@pytest.mark.parametrize("n", [1, 3, 30, 1000, 10042])
def test_without_flips_the_bound_is_the_one_of_an_event_that_never_came(n: int) -> None:
    assert -drop_below(0, 0, n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n), abs=1.5e-3 / n)


def test_one_item_says_little_whatever_it_says() -> None:
    assert drop_below(1, 0, 1, 0.05) == pytest.approx(-0.9, abs=1.5e-3)
    assert drop_below(0, 0, 1, 0.05) == pytest.approx(-0.95, abs=1.5e-3)
    assert drop_below(0, 1, 1, 0.05) == -1


@settings(max_examples=40)
@given(counts(300), st.sampled_from(LEVELS))
def test_the_bound_is_where_the_p_value_passes_the_level(found: tuple[int, int, int], level: float) -> None:
    bound = drop_below(*found, level)
    assert bound == -1 or p_drop_above(*found, bound) <= level
    assert p_drop_above(*found, bound + 2e-3 / found[2]) > level * 0.99
