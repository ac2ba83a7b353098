"""The band in which one more draw lies, from a standard deviation that a few draws were worth.

With k draws of a normal quantity, the next one lies within t sd sqrt(1 + 1 / k) of an earlier mean, but with
probability ``level`` a side, t being the upper quantile of Student's distribution with as many degrees of
freedom as the standard deviation has (Hahn & Meeker, Statistical Intervals, 1991, section 4.7). Draws are
compared with one accepted draw here, not with their mean, so sqrt 2 takes the place of sqrt(1 + 1 / k).
"""

from __future__ import annotations

import math


def reach(spread: float, freedom: int, level: float) -> float:
    """How far another draw lies from the accepted one, on one side, but with probability ``level``.

    Args:
        spread: standard deviation of the draws, 0 or more, in their unit.
        freedom: its degrees of freedom, 1 or more.
        level: between 0 and 1/2.

    Raises:
        ValueError: an argument outside of its range.
    """
    from scipy.special import stdtrit

    if not 0 <= spread < math.inf or freedom < 1 or not 0 < level <= 0.5:
        raise ValueError(f"a spread of {spread} with {freedom} degrees of freedom at {level} makes no band")
    return float(-stdtrit(freedom, level)) * spread * math.sqrt(2)
