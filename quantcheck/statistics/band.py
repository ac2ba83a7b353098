"""The band in which one more draw lies, from standard deviations that a few draws were worth.

With k draws of a normal quantity, the next one lies within t sd sqrt(1 + 1 / k) of an earlier mean, but with
probability ``level`` a side, t being the upper quantile of Student's distribution with as many degrees of
freedom as the standard deviation has (Hahn & Meeker, Statistical Intervals, 1991, section 4.7). Draws are
compared with one accepted draw here, not with their mean, so sqrt 2 takes the place of sqrt(1 + 1 / k).

Of many layers at once, each has a variance of its own, and few draws to tell it by. They are taken as drawn
from one scaled inverse chi-squared distribution, whose parameters the scatter of their logarithms gives, and
each is replaced by its posterior mean: near the common one where layers are alike, near its own where they
are not (Smyth, Linear models and empirical Bayes methods for assessing differential expression, Statistical
Applications in Genetics and Molecular Biology 3(1), 2004, sections 3 and 6).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def reach(spread: ArrayLike, freedom: float, level: float) -> NDArray[np.float64]:
    """How far another draw lies from the accepted one, on one side, but with probability ``level``.

    Args:
        spread: standard deviation of the draws, or one of each layer, 0 or more, in their unit.
        freedom: its degrees of freedom, 1 or more.
        level: between 0 and 1/2.

    Returns:
        float64, in the shape of ``spread``.

    Raises:
        ValueError: an argument outside of its range.
    """
    from scipy.special import stdtrit

    spreads = np.asarray(spread, dtype=np.float64)
    sound = bool(((spreads >= 0) & (spreads < math.inf)).all())
    if not sound or not 1 <= freedom < math.inf or not 0 < level <= 0.5:
        raise ValueError(f"a spread of {spreads} with {freedom} degrees of freedom at {level} makes no band")
    return float(-stdtrit(freedom, level)) * math.sqrt(2) * spreads


def moderated(variances: NDArray[np.float64], freedom: int) -> tuple[NDArray[np.float64], float]:
    """Variances that lend strength to each other, and the degrees of freedom that each then has.

    Layers that did not vary at all count as nothing known when the common variance is looked for.

    Args:
        variances: sample variance of each layer, float64 [n], 0 or more, n at least 1.
        freedom: degrees of freedom of each, 1 or more.

    Returns:
        float64 [n] in the same unit, and at most ``n * freedom``, which layers that are all alike have.
    """
    from scipy.special import digamma, polygamma

    varied = variances[variances > 0]
    if varied.size < 2:
        return np.full(variances.size, variances.mean()), float(variances.size * freedom)
    logs = np.log(varied) - digamma(freedom / 2) + math.log(freedom / 2)
    scatter = float(logs.var(ddof=1)) - float(polygamma(1, freedom / 2))
    most = float(varied.size * freedom)
    prior = 2 * _inverse_trigamma(scatter) if scatter > 0 else math.inf
    if prior + freedom >= most:
        return np.full(variances.size, varied.mean()), most
    common = math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))
    return (prior * common + freedom * variances) / (prior + freedom), prior + freedom


def _inverse_trigamma(value: float) -> float:
    """Where the trigamma function, which falls from infinity to 0, takes a value above 0."""
    from scipy.optimize import brentq
    from scipy.special import polygamma

    # trigamma(x) lies between 1 / x and 1 / x + 1 / x^2.
    return float(brentq(lambda x: float(polygamma(1, x)) - value, 1 / (value + 1) / 2, 2 / value + 2))
