"""Three answers from two bounds, whatever is compared."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.statistics.accuracy import Flips
from quantcheck.statistics.bound import ALARM, ALPHA, Answer, Bound, Comparison, bound, decide
from quantcheck.statistics.budget import share
from quantcheck.statistics.means import means

MARGINS = st.integers(-30, 30).map(lambda hundredths: hundredths / 100)
COMPARISONS: list[Comparison] = [
    Flips(30, 10, 400, 400),
    Flips(0, 0, 50, 50),
    Flips(9, 12, 200, 40, 2.5),
    means([0.01, 0.03, 0.02, 0.05, -0.01]),
    means([0.01, 0.03, 0.02, 0.05, -0.01, 0.2], [0, 0, 1, 1, 2, 2]),
]


@given(st.lists(MARGINS, min_size=3, max_size=3).map(sorted), MARGINS)
def test_worse_lies_above_the_margin_not_worse_up_to_it(figures: list[float], margin: float) -> None:
    lower, estimate, upper = figures
    found = decide(Bound(estimate, lower, upper, 10, 10, ALARM, ALPHA, 1.0), margin)
    assert (found is Answer.WORSE) == (lower > margin)
    assert (found is Answer.NOT_WORSE) == (upper <= margin)
    assert (found is Answer.CANNOT_TELL) == (lower <= margin < upper)


def test_what_is_not_known_cannot_tell() -> None:
    known = Bound(0.0, -0.1, -0.05, 10, 10, ALARM, ALPHA, 0.2)
    assert decide(known, 0.0) is Answer.NOT_WORSE
    assert decide(replace(known, upper=math.nan), 0.0) is Answer.CANNOT_TELL
    assert decide(replace(known, lower=math.nan, upper=math.nan), -1.0) is Answer.CANNOT_TELL


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_bounds_are_those_at_their_own_levels_and_enclose_the_estimate(comparison: Comparison) -> None:
    found = bound(comparison, 0.02, alarm=0.001, alpha=0.1)
    assert (found.lower, found.upper) == (comparison.lower(0.001), comparison.upper(0.1))
    assert (found.n, found.clusters, found.alarm, found.alpha) == (
        comparison.n,
        comparison.clusters,
        0.001,
        0.1,
    )
    assert found.lower < found.estimate == comparison.estimate < found.upper
    assert found.mde == comparison.mde(0.02, 0.001) > 0.02


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("margin", [-0.1, -0.01, 0.0, 0.01, 0.03, 0.3])
def test_the_answer_agrees_with_the_p_values(comparison: Comparison, margin: float) -> None:
    """So a gate that is WORSE at its static share is an alarm under Holm's rule too."""
    level = share(4)
    answer = decide(bound(comparison, margin, alarm=level), margin)
    assert (answer is Answer.WORSE) == (comparison.p_worse(margin) <= level)
    assert (answer is Answer.NOT_WORSE) == (comparison.p_not_worse(margin) <= ALPHA)
