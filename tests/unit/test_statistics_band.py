"""The band of one more draw: as wide as a few draws allow, checked by drawing."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from quantcheck.statistics.band import moderated, reach


@pytest.mark.parametrize(("draws", "level"), [(2, 0.05), (5, 0.01), (30, 0.001)])
def test_another_draw_lies_beyond_as_often_as_said(draws: int, level: float) -> None:
    random = np.random.default_rng(7)
    samples = random.normal(size=(200_000, draws))
    another = random.normal(size=200_000)
    width = reach(1.0, draws - 1, level) * samples.std(axis=1, ddof=1)
    beyond = float((another - samples[:, 0] > width).mean())
    # One of the draws is the accepted one, so its own deviation widens the band: at most the level.
    assert beyond <= level + 4 * math.sqrt(level / 200_000)
    independent = float((another - random.normal(size=200_000) > width).mean())
    assert independent == pytest.approx(level, abs=5 * math.sqrt(level / 200_000))


def test_no_spread_is_no_band_and_more_draws_make_it_narrower() -> None:
    assert reach(0.0, 3, 0.01) == 0
    widths = [reach(1.0, freedom, 0.01) for freedom in (1, 2, 5, 50, 5000)]
    assert widths == sorted(widths, reverse=True)
    assert reach(2.0, 5, 0.01) == 2 * reach(1.0, 5, 0.01)
    assert list(reach((1.0, 2.0), 5, 0.01)) == [reach(1.0, 5, 0.01), reach(2.0, 5, 0.01)]


@pytest.mark.parametrize(
    ("spread", "freedom", "level"),
    [
        (-1.0, 1, 0.1),
        ((1.0, -1.0), 1, 0.1),
        (math.nan, 1, 0.1),
        (math.inf, 1, 0.1),
        (1.0, 0, 0.1),
        (1.0, math.inf, 0.1),
        (1.0, 1, 0.0),
        (1.0, 1, 0.6),
    ],
)
def test_what_makes_no_band_is_refused(spread: ArrayLike, freedom: float, level: float) -> None:
    with pytest.raises(ValueError, match="makes no band"):
        reach(spread, freedom, level)


def drawn(random: np.random.Generator, variances: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Draws of layers with these variances, float64 [draws, *variances.shape]."""
    return random.normal(size=(draws, *variances.shape)) * np.sqrt(variances)


@pytest.mark.parametrize("prior", [1.5, 4.0, 40.0])
def test_layers_of_any_unlikeness_keep_the_level_together_and_a_pooled_band_does_not(prior: float) -> None:
    random, runs, layers, draws, level = np.random.default_rng(5), 4000, 35, 5, 0.05
    beyond = {"moderated": 0, "pooled": 0}
    for _ in range(runs):
        true = prior / random.chisquare(prior, layers)
        before, now = drawn(random, true, draws), drawn(random, true, 1)[0]
        other = drawn(random, true, 1)[0]
        variances = before.var(axis=0, ddof=1)
        share = level / (2 * layers)
        deviations, freedom = moderated(variances, draws - 1)
        beyond["moderated"] += bool((abs(now - other) > reach(np.sqrt(deviations), freedom, share)).any())
        width = reach(math.sqrt(variances.mean()), layers * (draws - 1), share)
        beyond["pooled"] += bool((abs(now - other) > width).any())
    rates = {name: count / runs for name, count in beyond.items()}
    assert rates["moderated"] <= 1.5 * level
    if prior < 5:
        assert rates["pooled"] > 2 * level


VARIANCES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40).map(np.array)


@settings(max_examples=60)
@given(VARIANCES, st.integers(1, 9))
def test_moderated_variances_lie_between_their_own_and_a_common_one(
    variances: NDArray[np.float64], freedom: int
) -> None:
    found, total = moderated(variances, freedom)
    assert freedom <= total <= variances.size * freedom
    order = np.argsort(variances)
    assert (np.diff(found[order]) >= -1e-9 * found[order][1:]).all()  # a layer that varied more still does
    spans = float(np.ptp(np.log(found))), float(np.ptp(np.log(variances)))
    assert spans[0] <= spans[1] + 1e-9


@settings(max_examples=60)
@given(VARIANCES, st.integers(1, 9), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_neither_the_unit_nor_the_order_of_layers_matters(
    variances: NDArray[np.float64], freedom: int, unit: float, random: Random
) -> None:
    order = list(range(variances.size))
    random.shuffle(order)
    found, total = moderated(variances, freedom)
    scaled, again = moderated(unit * variances[order], freedom)
    assert again == pytest.approx(total, rel=1e-4)
    assert scaled == pytest.approx(unit * found[order], rel=1e-4)


def test_layers_that_are_alike_share_one_variance_with_all_degrees_of_freedom() -> None:
    random = np.random.default_rng(3)
    variances = drawn(random, np.ones(20_000), 5).var(axis=0, ddof=1)
    found, freedom = moderated(variances, 4)
    # The scatter of 20,000 logarithms is known to 0.01, the trigamma function of 100.
    assert freedom > 60
    assert found == pytest.approx(1.0, abs=0.2)
    alike, all_of_them = moderated(np.full(7, 2.0), 3)
    assert (list(alike), all_of_them) == ([2.0] * 7, 21)


def test_layers_of_very_different_variances_keep_their_own_unless_they_are_among_the_smallest() -> None:
    variances = 10.0 ** np.arange(-8, 9)
    found, freedom = moderated(variances, 30)
    assert found[3:] == pytest.approx(variances[3:], rel=0.05)
    assert (found[:3] > variances[:3]).all()
    assert freedom == pytest.approx(30, abs=1)


def test_a_layer_that_did_not_vary_has_the_common_variance_in_part() -> None:
    found, freedom = moderated(np.array([0.0, 1.0, 100.0, 4.0]), 4)
    assert 0 < found[0] < found[1] < found[3] < found[2]
    assert freedom > 4
    assert list(moderated(np.zeros(3), 4)[0]) == [0.0] * 3
    alone, own = moderated(np.array([0.0, 2.0]), 4)
    assert (list(alone), own) == ([1.0, 1.0], 8.0)
