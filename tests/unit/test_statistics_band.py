"""The band of one more draw: as wide as a few draws allow, checked by drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantcheck.statistics.band import reach


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


@pytest.mark.parametrize(
    ("spread", "freedom", "level"),
    [(-1.0, 1, 0.1), (math.nan, 1, 0.1), (math.inf, 1, 0.1), (1.0, 0, 0.1), (1.0, 1, 0.0), (1.0, 1, 0.6)],
)
def test_what_makes_no_band_is_refused(spread: float, freedom: int, level: float) -> None:
    with pytest.raises(ValueError, match="makes no band"):
        reach(spread, freedom, level)
